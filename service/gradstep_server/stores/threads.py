"""Blocking calls, away from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A few threads of the store's own, so that no other work can starve it."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="gradstep-store")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make the call in a thread and return what it returns.

        When cancelled, wait for the thread before passing that on: until then it
        reads buffers that the caller would use again.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, partial(call, *args, **kwargs))
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()  # retrieved, or asyncio logs it as forgotten
            raise cancelled
        return future.result()

    def close(self) -> None:
        """End the threads, after what they are doing."""
        self._pool.shutdown()
