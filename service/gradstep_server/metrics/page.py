"""The page that Prometheus reads, of this process or of all workers together."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gradstep_server import __version__
from gradstep_server.metrics import workers
from gradstep_server.metrics.families import Families
from gradstep_server.sessions.observer import Memory
from gradstep_server.sessions.room import Rooms


class Page:
    """Writes the page; with several workers, whichever is asked writes that of all."""

    def __init__(self, families: Families, memory: Callable[[], Memory], rooms: Rooms) -> None:
        """Make a page.

        Args:
            families: what it shows.
            memory: returns what the sessions of this process take.
            rooms: where the memory of its requests is counted.
        """
        self._families = families
        self._memory = memory
        self._rooms = {"bodies": rooms.bodies, "answers": rooms.answers}
        self._refused = dict.fromkeys(self._rooms, 0)
        self._registry = families.registry
        families.build.labels(__version__, platform.python_version()).set(1)
        self._shared = workers.directory()
        if self._shared is None:
            # Of several workers it would describe only the one that is asked.
            ProcessCollector(registry=self._registry)
        else:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry, str(self._shared))  # type: ignore[no-untyped-call] # it has no types

    async def read(self) -> bytes:
        """Return the page as it is now."""
        self.refresh()
        if self._shared is not None:
            workers.forget_dead(self._shared)
        return await asyncio.to_thread(generate_latest, self._registry)

    def refresh(self) -> None:
        """Set what is not counted as it happens."""
        memory = self._memory()
        self._families.hot_sessions.set(memory.sessions)
        self._families.hot_bytes.set(memory.nbytes)
        self._families.budget_bytes.set(memory.budget)
        for part, room in self._rooms.items():
            self._families.room_bytes.labels(part).set(room.taken)
            self._families.room_limit_bytes.labels(part).set(room.limit)
            self._families.room_waiting.labels(part).set(room.waiting)
            refused, self._refused[part] = self._refused[part], room.refused
            self._families.room_refused.labels(part).inc(room.refused - refused)

    async def keep_fresh(self, seconds: float) -> None:
        """Where there are several workers, refresh from time to time: another may be asked."""
        while self._shared is not None:
            self.refresh()
            await asyncio.sleep(seconds)
