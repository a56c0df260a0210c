"""The stateless routes as an application, for tests that need no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI

from gradstep_server.schedulers import SCHEDULERS, Schedule
from gradstep_server.sessions.room import Rooms
from gradstep_server.web import (
    backprop,
    catalogue,
    curves,
    docs,
    openapi,
    problems,
    service,
)
from gradstep_server.web.body_limit import BodyLimit
from gradstep_server.web.cors import StatelessCors
from gradstep_server.web.request_id import RequestId

JSON = {"Content-Type": "application/json"}
_MEMORY = 2**32


async def _always_ready() -> None:
    pass


async def _no_metrics() -> bytes:
    return b""


def stateless_app(
    *more: APIRouter,
    max_points: int = 10_000_000,
    max_body_size: int = 2**20,
    origins: tuple[str, ...] = ("*",),
    ready: service.Readiness = _always_ready,
) -> FastAPI:
    """Return the stateless half of the service, with further routes if there are any."""
    app = FastAPI(docs_url=None, redoc_url=None)
    routers = (
        curves.router(max_points),
        catalogue.router,
        backprop.router,
        service.router(ready, _no_metrics),
        docs.router,
    )
    for router in (*routers, *more):
        app.include_router(router)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(BodyLimit, limit=max_body_size, rooms=Rooms.halves(_MEMORY))
    app.add_middleware(StatelessCors, origins=origins)
    app.add_middleware(RequestId)
    return app


def schedule(kind: str, **params: Any) -> Schedule:
    """Return a schedule of a kind."""
    return SCHEDULERS[kind].model_validate(params)


class Client:
    """An HTTP client of an application in this process, one event loop per request."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request, with the options of httpx, and wait for the answer."""

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST."""
        return self.request("POST", path, **options)


def client(app: FastAPI | None = None) -> Client:
    """Return a client of `app`, by default of the stateless half of the service."""
    return Client(app or stateless_app())


async def chunked(*pieces: bytes) -> AsyncIterator[bytes]:
    """Send a body in pieces, without announcing its length."""
    for piece in pieces:
        yield piece
