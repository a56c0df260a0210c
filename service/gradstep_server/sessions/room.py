"""Memory for requests under way: what their bodies and answers may take, all together.

Who wants more than there is waits a little, and is told so then, before anything is
read or changed: many large requests at once cost refusals and not the process.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ParamSpec, Self, TypeVar

from gradstep_server.sessions.errors import Busy

_PATIENCE = 2.0
"""Seconds that someone waits for room."""

_POLL = 0.02
"""Seconds between two tries, on average; drawn, so that nobody is always behind another."""

P = ParamSpec("P")
T = TypeVar("T")


class Room:
    """So many bytes. It is counted here; the memory itself is someone else's."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        """How many wait for room."""

        self.refused = 0
        """How many have waited in vain."""

        self._taken = 0
        # Reentrant: what the collector frees gives its room back, at any point.
        self._lock = threading.RLock()

    @property
    def taken(self) -> int:
        """How many bytes are in use."""
        return self._taken

    def take(self, nbytes: int) -> None:
        """Count bytes as taken.

        Raises:
            Busy: there is not so much room at present.
        """
        with self._lock:
            if self._taken + nbytes > self.limit:
                raise Busy(
                    f"{nbytes} bytes more do not fit beside the {self._taken} that requests under "
                    "way take; send it again in a moment"
                )
            self._taken += nbytes

    def give_back(self, nbytes: int) -> None:
        """Count bytes as free again."""
        with self._lock:
            self._taken -= nbytes


@dataclass(frozen=True, slots=True)
class Rooms:
    """Room for what comes and for what goes: answers never keep bodies out, or the other way."""

    bodies: Room
    answers: Room

    @classmethod
    def halves(cls, nbytes: int) -> Self:
        """Return two rooms of equal size."""
        return cls(Room(nbytes // 2), Room(nbytes // 2))


async def patiently(room: Room, take: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `take` returns, called again while it finds no room, for a while.

    Raises:
        Busy: it found none to the end.
    """
    with suppress(Busy):
        return take(*args, **kwargs)
    until = time.monotonic() + _PATIENCE
    room.waiting += 1
    try:
        while True:
            await asyncio.sleep(2 * _POLL * random.random())  # noqa: S311 - not a secret
            try:
                return take(*args, **kwargs)
            except Busy:
                if time.monotonic() >= until:
                    room.refused += 1
                    raise
    finally:
        room.waiting -= 1
