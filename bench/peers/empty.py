"""A FastAPI route that does nothing."""

from __future__ import annotations

from fastapi import FastAPI

from bench.peers.serving import serve

app = FastAPI()


@app.get("/")
async def empty() -> None:
    """Answer ``null``."""


if __name__ == "__main__":
    serve("bench.peers.empty:app")
