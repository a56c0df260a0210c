"""The store for several replicas: every process that opens the database may serve any session."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from time import time

from gradstep_server.sessions.errors import StoreUnavailable, Unavailable
from gradstep_server.sessions.store import Body, Entry, Head, Header, Snapshot
from gradstep_server.stores.postgres import catalogue, log, sweeping
from gradstep_server.stores.postgres.address import without_secrets
from gradstep_server.stores.postgres.connections import Connections
from gradstep_server.stores.postgres.schema import migrate

_log = logging.getLogger(__name__)

_CHECK = 5.0
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

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        async with self._connections.use() as db:
            return await catalogue.idle_since(db, moment, limit)

    async def delete(self, header: Header, seq: int) -> None:
        """Delete the session if its log stands at `seq`, then drop what it held."""
        async with self._connections.use() as db:
            await catalogue.delete(db, header.key, seq)
        try:
            async with self._connections.use() as db:
                await sweeping.sweep(db, header.key)
        except Unavailable as error:  # it is deleted, and the next `open` sweeps
            _log.warning("what session %s held is not dropped yet: %s", header.id, error)

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        async with self._connections.use() as db:
            return await log.head(db, key) or Head(0, 0, 0.0)

    async def append(self, key: str, entry: Entry, body: Body) -> None:
        """Add `entry` if the log stands right before it."""
        async with self._connections.use() as db:
            await log.append(db, key, entry, body)

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        async with self._connections.use() as db:
            return await log.find(db, key, kind, n)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        async with self._connections.use() as db:
            return await log.at(db, key, seq)

    async def history(self, key: str, kind: str, after: int, limit: int) -> Sequence[Entry]:
        """Return entries of this kind with ``n > after``, by n."""
        async with self._connections.use() as db:
            return await log.history(db, key, kind, after, limit)

    async def replay(self, key: str, after: int) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after` with their bodies; no connection is held meanwhile."""
        while found := await self._following(key, after):
            for entry, body in found:
                whole = await self._body(key, entry) if body is None else body
                if whole is None:
                    return
                yield entry, whole
                after = entry.seq

    async def put_snapshot(self, key: str, snapshot: Snapshot, body: Body) -> None:
        """Keep a snapshot, unless there is one of this `seq`."""
        async with self._connections.use() as db:
            await log.put_snapshot(db, key, snapshot, body)

    async def snapshot(self, key: str) -> tuple[Snapshot, memoryview] | None:
        """Return the newest snapshot with its body."""
        async with self._connections.use() as db:
            return await log.snapshot(db, key)

    async def trim(self, key: str) -> None:
        """Drop what is older than the second-newest snapshot, a little at a time."""
        more = True
        while more:
            async with self._connections.use() as db:
                more = await sweeping.trim(db, key)

    async def _following(self, key: str, after: int) -> Sequence[log.Found]:
        async with self._connections.use() as db:
            return await log.following(db, key, after)

    async def _body(self, key: str, entry: Entry) -> memoryview | None:
        async with self._connections.use() as db:
            return await log.read_body(db, key, entry.seq)

    async def _open(self) -> None:
        await self._connections.open()
        async with self._connections.use(damaged=StoreUnavailable) as db:
            await migrate(db)
            if await db.fetchval("SELECT current_setting('fsync')") != "on":
                self._durability = _UNSYNCED
            await sweeping.sweep_all(db)
