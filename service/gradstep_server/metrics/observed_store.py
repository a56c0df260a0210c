"""A store around another one, which measures how long that takes and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from time import perf_counter
from typing import TypeVar

from prometheus_client import Gauge, Histogram

from gradstep_server.metrics.families import Families
from gradstep_server.sessions.errors import (
    IdTaken,
    SequenceTaken,
    SessionCorrupt,
    StorageFull,
    Unavailable,
)
from gradstep_server.sessions.store import (
    Basis,
    Body,
    Entry,
    Head,
    Header,
    Snapshot,
    SnapshotWriter,
    Store,
    Usage,
)

_T = TypeVar("_T")

_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (SequenceTaken, "taken"),
    (IdTaken, "taken"),
    (StorageFull, "full"),
    (SessionCorrupt, "corrupt"),
    (Unavailable, "unavailable"),
    (asyncio.CancelledError, "cancelled"),
)


class ObservedStore:
    """Does what the store within does."""

    def __init__(self, within: Store, families: Families) -> None:
        self._within = within
        self._in_flight = families.store_in_flight
        # Looking a series up by its labels costs as much as counting in it.
        self._seconds = cache(families.store_seconds.labels)

    @property
    def url(self) -> str:
        """The address of the store within."""
        return self._within.url

    @property
    def durability(self) -> str:
        """What an acknowledged write survives."""
        return self._within.durability

    @property
    def shared(self) -> bool:
        """Whether other processes may append to the same logs."""
        return self._within.shared

    async def open(self) -> None:
        """Open the store within."""
        await self._of("open", self._within.open())

    async def close(self) -> None:
        """Close the store within."""
        await self._of("close", self._within.close())

    async def check(self) -> None:
        """Write and read something."""
        await self._of("check", self._within.check())

    async def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session."""
        await self._of("create", self._within.create(header, entry, body))

    async def load(self, tenant: str, session_id: str) -> Header | None:
        """Return a header."""
        return await self._of("load", self._within.load(tenant, session_id))

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions of a tenant."""
        return await self._of("list", self._within.list(tenant, after, limit))

    async def usage(self, *, sizes: bool = True) -> Mapping[str, Usage]:
        """Return what sessions take, by tenant."""
        return await self._of("usage", self._within.usage(sizes=sizes))

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return idle sessions."""
        return await self._of("idle_since", self._within.idle_since(moment, limit))

    async def delete(self, header: Header, seq: int | None) -> None:
        """Delete a session."""
        await self._of("delete", self._within.delete(header, seq))

    async def head(self, key: str) -> Head:
        """Return where a log stands."""
        return await self._of("head", self._within.head(key))

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        """Add an entry."""
        call = self._within.append(key, entry, body, after=after, synced=synced, basis=basis)
        return await self._of("append", call)

    async def sync(self, key: str) -> None:
        """Make what was appended durable."""
        await self._of("sync", self._within.sync(key))

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of a kind and number."""
        return await self._of("find", self._within.find(key, kind, n))

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of a kind."""
        return await self._of("newest", self._within.newest(key, kind, upto))

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at a place."""
        return await self._of("at", self._within.at(key, seq))

    async def history(
        self, key: str, kind: str, after: int, upto: int, limit: int
    ) -> Sequence[Entry]:
        """Return the newest entries of a kind."""
        return await self._of("history", self._within.history(key, kind, after, upto, limit))

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield entries with their bodies; each is measured for itself."""
        entries = self._within.replay(key, after, upto)
        while True:
            with self._measured("replay"):
                found = await anext(entries, None)
            if found is None:
                return
            yield found

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        """Write a snapshot within the block."""
        async with self._within.snapshot_writer(key) as writer:
            yield _ObservedWriter(self, writer)

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return the snapshots that are kept."""
        return await self._of("snapshots", self._within.snapshots(key))

    async def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return a snapshot."""
        return await self._of("snapshot", self._within.snapshot(key, seq))

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        """Drop what is older than a snapshot."""
        await self._of("trim", self._within.trim(key, oldest, rewound=rewound))

    async def _of(self, operation: str, call: Awaitable[_T]) -> _T:
        with self._measured(operation):
            return await call

    def _measured(self, operation: str) -> _Measured:
        return _Measured(self._in_flight, self._seconds, operation)


class _Measured:
    """Counts one operation, and how it ends."""

    def __init__(
        self, in_flight: Gauge, seconds: Callable[[str, str], Histogram], operation: str
    ) -> None:
        self._in_flight = in_flight
        self._seconds = seconds
        self._operation = operation
        self._began = perf_counter()

    def __enter__(self) -> None:
        self._in_flight.inc()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._in_flight.dec()
        outcome = "ok" if error is None else _outcome(error)
        self._seconds(self._operation, outcome).observe(perf_counter() - self._began)


class _ObservedWriter:
    """Takes what a snapshot's writer takes."""

    def __init__(self, store: ObservedStore, within: SnapshotWriter) -> None:
        self._store = store
        self._within = within

    async def write(self, part: memoryview) -> None:
        """Take the next bytes."""
        await self._store._of("snapshot_write", self._within.write(part))  # noqa: SLF001 - of this module

    async def commit(self, snapshot: Snapshot) -> None:
        """Keep the snapshot."""
        await self._store._of("snapshot_commit", self._within.commit(snapshot))  # noqa: SLF001 - of this module


def _outcome(error: BaseException) -> str:
    return next((name for cls, name in _OUTCOMES if isinstance(error, cls)), "error")
