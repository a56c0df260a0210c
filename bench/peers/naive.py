"""What one writes in an hour: torch's optimizer behind FastAPI routes, one for each format."""

from __future__ import annotations

from functools import cache

import safetensors.torch
import torch
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from bench.peers.serving import serve
from bench.peers.stepper import Stepper

app = FastAPI()
stepper = cache(Stepper)
"""One optimizer for each size, made when it is first stepped."""


class Gradients(BaseModel):
    """Gradients as JSON, and parameters too."""

    w: list[float]


@app.put("/json/{size}")
async def json_step(size: int, gradients: Gradients) -> Gradients:
    """Step by numbers in JSON, and answer in JSON."""
    return Gradients(w=stepper(size).step(torch.tensor(gradients.w)).tolist())


@app.put("/safetensors/{size}")
async def safetensors_step(size: int, request: Request) -> Response:
    """Step by a safetensors file, and answer with one."""
    gradients = safetensors.torch.load(await request.body())
    return Response(safetensors.torch.save({"w": stepper(size).step(gradients["w"])}))


if __name__ == "__main__":
    serve("bench.peers.naive:app")
