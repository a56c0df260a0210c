"""What belongs to one event loop, for a client that outlives it: ``asyncio.run``, twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One for each event loop, made when that first asks; those of closed loops are dropped."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._of_loop: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._of_loop.get(loop)
        if found is None:
            for other in [*self._of_loop]:
                if other.is_closed():
                    self._of_loop.pop(other, None)
            found = self._of_loop[loop] = self._make()
        return found
