"""The store for several replicas: every process that opens the database may serve any session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import time
from uuid import UUID

from gradstep_server.sessions.errors import StoreUnavailable, Unavailable
from gradstep_server.sessions.store import (
    Basis,
    Body,
    Entry,
    Head,
    Header,
    Snapshot,
    SnapshotWriter,
    Usage,
)
from gradstep_server.stores.postgres import (
    appending,
    catalogue,
    incarnation,
    log,
    snapshots,
    sweeping,
)
from gradstep_server.stores.postgres.address import without_secrets
from gradstep_server.stores.postgres.connections import Connections, Row
from gradstep_server.stores.postgres.schema import migrate

_log = logging.getLogger(__name__)

_CHECK = 5.0
_SNAPSHOTS = 4
"""Snapshots that are written at a time: each holds a connection, and appends need some."""

_SYNCED = (
    "every acknowledged write survives the end of the process, and of PostgreSQL with its "
    "machine: it is synced to disk first"
)
_UNSYNCED = (
    "an acknowledged write survives the end of the process, but not the loss of power where "
    "PostgreSQL runs: it is set to fsync = off"
)


class PostgresStore:
    """A `Store` in a database. Every write that returns is committed there."""

    shared = True

    def __init__(self, address: str) -> None:
        """Name the database; `open` connects.

        Raises:
            ValueError: the address cannot be read. The message holds nothing secret.
        """
        self._url = without_secrets(address)
        self._connections = Connections(address)
        self._durability = _SYNCED
        self._told: dict[str, UUID] = {}
        """By key, the life of the server in which the log may have lost its end, where
        `head` has said so: an append by someone whom it did not tell is refused."""

        self._slots = asyncio.Semaphore(_SNAPSHOTS)

    @property
    def url(self) -> str:
        """The address that selects this store, without secrets."""
        return self._url

    @property
    def durability(self) -> str:
        """What an acknowledged write survives."""
        return self._durability

    async def open(self) -> None:
        """Connect, make or migrate the tables, and sweep what crashes left."""
        try:
            await self._open()
        except BaseException as error:
            await self._connections.close()
            if isinstance(error, StoreUnavailable):
                raise StoreUnavailable(f"{self._url} cannot be used. {error.detail}") from error
            if isinstance(error, ValueError):  # the driver's sentence may quote the address
                raise StoreUnavailable(f"{self._url} is no valid address.") from None
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    async def check(self) -> None:
        """Write something durably."""
        async with self._connections.use(damaged=StoreUnavailable, wait=_CHECK) as db:
            await db.execute("UPDATE gradstep_probe SET written_at = $1", time())

    async def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session, with its first entry if there is one, atomically."""
        async with self._connections.use() as db:
            await catalogue.create(db, header, entry, body)

    async def load(self, tenant: str, session_id: str) -> Header | None:
        """Return the header, also that of a deleted session, or None."""
        async with self._connections.use() as db:
            return await catalogue.load(db, tenant, session_id)

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return the tenant's sessions by id, from behind `after`."""
        async with self._connections.use() as db:
            return await catalogue.page(db, tenant, after, limit)

    async def usage(self, *, sizes: bool = True) -> Mapping[str, Usage]:
        """Return what the sessions take, by tenant."""
        async with self._connections.use() as db:
            return await catalogue.usage(db, sizes=sizes)

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        async with self._connections.use() as db:
            return await catalogue.idle_since(db, moment, limit)

    async def delete(self, header: Header, seq: int | None) -> None:
        """Delete the session, if its log stands at `seq` where that is given; drop what it held."""
        async with self._connections.use() as db:
            await catalogue.delete(db, header.key, seq)
        await self._sweep(header.key, header.id)

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        async with self._connections.use() as db:
            head, lost = await log.head(db, key) or (Head(0, 0, 0.0), None)
        self._told.pop(key, None)
        if lost is not None:
            self._told[key] = lost
        return head

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
        """Add `entry` if the log stands right before it, and return whether it is synced."""
        async with self._connections.use() as db:
            known = self._told.get(key)
            return await appending.append(
                db, key, entry, body, after=after, synced=synced, basis=basis, known=known
            )

    async def sync(self, key: str) -> None:
        """Make everything that was appended durable."""
        async with self._connections.use() as db:
            await appending.sync(db, key)

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        async with self._connections.use() as db:
            return await log.find(db, key, kind, n)

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``."""
        async with self._connections.use() as db:
            return await log.newest(db, key, kind, upto)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        async with self._connections.use() as db:
            return await log.at(db, key, seq)

    async def history(
        self, key: str, kind: str, after: int, upto: int, limit: int
    ) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n."""
        async with self._connections.use() as db:
            return await log.history(db, key, kind, after, upto, limit)

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after` with their bodies; no connection is held meanwhile.

        Raises:
            SessionCorrupt: an entry or a body is missing.
            StoreUnavailable: a crash took what was yielded already.
        """
        last = log.END if upto is None else upto
        seal = None
        while found := await self._following(key, after, last, seal):
            for entry, body in found:
                whole = await self._body(key, entry) if body is None else body
                if whole is None:
                    return
                yield entry, whole
                after, seal = entry.seq, entry.seal

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        """Write a snapshot within the block; without a `commit` nothing is kept."""
        async with (
            self._slots,
            self._connections.use() as db,
            snapshots.writing(db, key) as writer,
        ):
            yield writer

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        async with self._connections.use() as db:
            return await snapshots.kept(db, key)

    async def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        async with self._connections.use() as db:
            return await snapshots.read(db, key, seq)

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        """Drop what is older than the snapshot `oldest`, a little at a time."""
        more = True
        while more:
            async with self._connections.use() as db:
                more = await sweeping.trim(db, key, oldest, rewound)

    async def _following(
        self, key: str, after: int, upto: int, before: bytes | None
    ) -> Sequence[log.Found]:
        async with self._connections.use() as db:
            return await log.following(db, key, after, upto, before)

    async def _body(self, key: str, entry: Entry) -> memoryview | None:
        async with self._connections.use() as db:
            return await log.read_body(db, key, entry)

    async def _sweep(self, key: str, session_id: str) -> None:
        """Drop what a deleted session held, or leave it to the next `open`."""
        try:
            async with self._connections.use() as db:
                await sweeping.sweep(db, key)
        except Unavailable as error:
            _log.warning("what session %s held is not dropped yet: %s", session_id, error)

    async def _sweep_all(self) -> None:
        after = ""
        while left := await self._unswept(after):
            for key, session_id in left:
                await self._sweep(key, session_id)
                after = key

    async def _unswept(self, after: str) -> Sequence[Row]:
        async with self._connections.use(damaged=StoreUnavailable) as db:
            return await sweeping.unswept(db, after)

    async def _open(self) -> None:
        await self._connections.open()
        async with self._connections.use(damaged=StoreUnavailable) as db:
            await migrate(db)
            await incarnation.ensure(db)
            if await db.fetchval("SELECT current_setting('fsync')") != "on":
                self._durability = _UNSYNCED
        await self._sweep_all()
