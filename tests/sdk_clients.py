"""Both clients of the SDK against one application, so that a test is written once for both."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import httpx
import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal

import gradstep
from gradstep._async_client import AsyncSchedules, AsyncSessions
from gradstep_server.app import create_app
from gradstep_server.settings import Settings

T = TypeVar("T")

ADDRESS = "http://gradstep.test"
ADAMW = {"type": "AdamW", "lr": 0.1}

Connect = Callable[..., gradstep.Client]
"""Makes a client from a transport that wraps the application's, or from none."""


class Blocking(httpx.BaseTransport):
    """An asynchronous transport, used by a blocking client."""

    def __init__(self, portal: BlockingPortal, transport: httpx.AsyncBaseTransport) -> None:
        self._portal = portal
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._exchange, request, request.read())

    async def _exchange(self, request: httpx.Request, body: bytes) -> httpx.Response:
        sent = httpx.Request(request.method, request.url, headers=request.headers, content=body)
        response = await self._transport.handle_async_request(sent)
        stream = httpx.ByteStream(await response.aread())
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)


class Awaited:
    """An asynchronous client or session, used like its blocking twin."""

    def __init__(self, portal: BlockingPortal, target: object) -> None:
        self._portal = portal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return self._finished(getattr(self._target, name))

    def _finished(self, value: Any) -> Any:
        if inspect.ismethod(value):
            return lambda *args, **kwargs: self._finished(value(*args, **kwargs))
        if inspect.iscoroutine(value):
            return self._finished(self._portal.call(_awaited, value))
        if inspect.isasyncgen(value):
            return iter(self._portal.call(_collected, value))
        twins = (AsyncSchedules, AsyncSessions, gradstep.AsyncSession)
        return Awaited(self._portal, value) if isinstance(value, twins) else value


async def _awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    return await coroutine


async def _collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


@contextmanager
def application(**settings: Any) -> Iterator[tuple[BlockingPortal, httpx.ASGITransport]]:
    """Run the real application in an event loop of its own."""
    app = create_app(Settings(**{"store": "memory://", "threads": 1, **settings}))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
    ):
        yield portal, httpx.ASGITransport(app)


@contextmanager
def connections(portal: BlockingPortal, form: str) -> Iterator[Connect]:
    """Give a function that makes clients, blocking or asynchronous, and close them at the end."""
    made: list[gradstep.Client] = []

    def connect(transport: httpx.AsyncBaseTransport, **options: Any) -> gradstep.Client:
        client: object
        if form == "blocking":
            client = gradstep.Client(ADDRESS, transport=Blocking(portal, transport), **options)
        else:
            asynchronous = gradstep.AsyncClient(ADDRESS, transport=transport, **options)
            client = Awaited(portal, asynchronous)
        made.append(cast("gradstep.Client", client))
        return made[-1]

    yield connect
    for client in made:
        client.close()


def weights(dtype: Any = np.float32) -> dict[str, Any]:
    return {"w": np.array([[1.0, -2.0], [0.5, 4.0]], dtype), "b": np.array([0.25, 0.75], dtype)}


def gradients(step: int, dtype: Any = np.float32) -> dict[str, Any]:
    random = np.random.default_rng(step)
    return {"w": random.normal(size=(2, 2)).astype(dtype), "b": random.normal(size=2).astype(dtype)}
