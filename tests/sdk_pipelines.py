"""Pipelines of the SDK: sessions to step, someone who watches the way, and an end to each run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import httpx
import numpy as np
from session_app import Arrays

from gradstep import AsyncClient, AsyncSession, Pipeline

T = TypeVar("T")

PATIENCE = 20.0

Handle = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Watched(httpx.AsyncBaseTransport):
    """The way to the service, with someone who looks at every step on it."""

    def __init__(self, watch: Callable[[httpx.Request, Handle], Awaitable[httpx.Response]]) -> None:
        self._watch = watch
        self._way = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/steps/" not in request.url.path:
            return await self._way.handle_async_request(request)
        return await self._watch(request, self._way.handle_async_request)

    async def aclose(self) -> None:
        await self._way.aclose()


def run(main: Coroutine[Any, Any, T]) -> T:
    async def whole() -> T:
        async with asyncio.timeout(PATIENCE) as patience:
            result = await main
        assert not patience.expired()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something goes on"
        return result

    return asyncio.run(whole())


def start(size: int) -> Arrays:
    return {"w": np.linspace(-1, 1, size, dtype=np.float32), "b": np.zeros(2, np.float32)}


def gradients(seed: int, size: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "w": random.normal(size=size).astype(np.float32),
        "b": random.normal(size=2).astype(np.float32),
    }


async def created(client: AsyncClient, count: int, size: int = 4) -> list[AsyncSession]:
    return [
        await client.sessions.create(optimizer="AdamW", params=start(size)) for _ in range(count)
    ]


async def positions(sessions: list[AsyncSession]) -> list[int]:
    """Return where the server says that sessions stand, and check that they know it."""
    found = []
    for session in sessions:
        known = session.position
        found.append((await session.refresh()).step)
        assert known == found[-1]
    return found


async def drain(steps: Any, into: list[AsyncSession], limit: int = 8) -> None:
    """Step, and note whose results come."""
    async with Pipeline(steps, limit=limit) as pipeline:
        async for session, _, _ in pipeline:
            into.append(session)
