"""Snapshots in the tables: written piece by piece in one transaction, read as of one moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gradstep_server.sessions.store import Snapshot
from gradstep_server.stores.postgres import bodies
from gradstep_server.stores.postgres.connections import Connection, Transaction, changed

# Between two pieces, steps of the session may take their time. The transaction
# locks nothing that others wait for, until its last statement does.
_PATIENT = "SET LOCAL idle_in_transaction_session_timeout = '5min'"
_BRIEF = "SET LOCAL idle_in_transaction_session_timeout = '10s'"

_ADD = """
INSERT INTO gradstep_snapshots (key, seq, base, record, seal, body_size, body)
SELECT key, $2, $3, $4, $5, $6, $7 FROM gradstep_logs
WHERE key = $1 AND trimmed <= $3 FOR SHARE
ON CONFLICT (key, seq) DO NOTHING
"""
_LIST = """
SELECT s.seq, s.base FROM gradstep_logs JOIN gradstep_snapshots s USING (key)
WHERE key = $1 ORDER BY s.seq
"""
_IS_KEPT = "SELECT FROM gradstep_snapshots WHERE key = $1 AND seq = $2"
_READ = """
SELECT s.seq, s.base, s.record, s.seal, s.body_size, s.body
FROM gradstep_logs JOIN gradstep_snapshots s USING (key) WHERE key = $1 AND s.seq = $2
"""


class Writer:
    """Takes the body of a snapshot piece by piece, within `writing`."""

    def __init__(self, db: Connection, key: str, transaction: Transaction) -> None:
        self.over = False
        self._db = db
        self._key = key
        self._transaction = transaction
        self._body = bodies.BodyWriter(db)

    async def write(self, part: memoryview) -> None:
        """Take the next bytes; they may change when this returns."""
        await self._body.write(part)

    async def commit(self, snapshot: Snapshot) -> None:
        """Keep the snapshot.

        It is not kept if there is one of this `seq`, if what follows it was trimmed,
        or if there is no log any more.
        """
        row = (
            snapshot.seq,
            snapshot.base,
            snapshot.record,
            snapshot.seal,
            snapshot.body_size,
            await self._body.end(snapshot.body_size),
        )
        await self._db.execute(_BRIEF)
        kept = changed(await self._db.execute(_ADD, self._key, *row))
        self.over = True
        await (self._transaction.commit() if kept else self._transaction.rollback())


@asynccontextmanager
async def writing(db: Connection, key: str) -> AsyncIterator[Writer]:
    """Write a snapshot within the block; without a `commit` nothing is kept."""
    transaction = db.transaction()
    await transaction.start()
    writer = Writer(db, key, transaction)
    try:
        await db.execute(_PATIENT)
        yield writer
    finally:
        if not writer.over:
            await transaction.rollback()


async def kept(db: Connection, key: str) -> Sequence[tuple[int, int]]:
    """Return `seq` and `base` of the snapshots that are kept, oldest first."""
    return [(seq, base) for seq, base in await db.fetch(_LIST, key)]


async def is_kept(db: Connection, key: str, seq: int) -> bool:
    """Return whether there is a snapshot of this `seq`."""
    return await db.fetchrow(_IS_KEPT, key, seq) is not None


async def read(db: Connection, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
    """Return the snapshot of this `seq` with its body, as of one moment."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        row = await db.fetchrow(_READ, key, seq)
        if row is None:
            return None
        *fields, body = row
        found = Snapshot(*fields)
        return found, await bodies.read(db, body, found.body_size, f"snapshot {seq}")
