"""Adding to a log: the one place where writers meet, and what they may leave unsynced."""

from __future__ import annotations

from uuid import UUID, uuid4

from gradstep_server.sessions.errors import SequenceTaken
from gradstep_server.sessions.store import Basis, Body, Entry
from gradstep_server.stores.bodies import check_size, in_chunks
from gradstep_server.stores.postgres import bodies, incarnation, log, snapshots
from gradstep_server.stores.postgres.connections import Connection
from gradstep_server.stores.postgres.incarnation import LOST, PRESENT

# One statement is one transaction, and one round trip. Where two meet, the
# second waits for the first, looks at the row again, and changes nothing.
#
# An entry within a burst may be synced later, so its commit is not waited for: the
# setting ends with the transaction. A suspect log takes an entry only of a writer
# who knows: one that has looked before the crash would take the place of what was
# lost, and end the suspicion.
_APPEND = f"""
WITH moved AS (
    UPDATE gradstep_logs l SET
        seq = seq + 1, step = $5, seal = $8, moved_at = $10,
        unsynced_in = CASE WHEN NOT $14::boolean THEN coalesce(unsynced_in, {PRESENT}) END,
        unsynced = CASE WHEN NOT $14 AND unsynced_in = {PRESENT} THEN unsynced + 1 ELSE 0 END
    WHERE key = $1 AND seq = $2::bigint - 1 AND seal = $13
        AND ({LOST} IS NULL OR unsynced_in = $15::uuid)
    RETURNING key, unsynced, unsynced_in,
        CASE WHEN unsynced > 0 THEN set_config('synchronous_commit', 'off', true) END
), chunk AS (
    INSERT INTO gradstep_chunks (body, number, data)
    SELECT $11::uuid, 0, $12::bytea FROM moved WHERE $12::bytea IS NOT NULL
)
INSERT INTO gradstep_entries
    (key, seq, kind, n, step, digest, record, seal, body_size, created_at, body)
SELECT key, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM moved
RETURNING (SELECT unsynced FROM moved), (SELECT unsynced_in FROM moved)
"""  # noqa: S608 - made of constants

_SYNC = f"UPDATE gradstep_logs SET unsynced_in = NULL WHERE key = $1 AND unsynced_in = {PRESENT}"  # noqa: S608 - made of constants


async def append(
    db: Connection,
    key: str,
    entry: Entry,
    body: Body,
    *,
    after: bytes,
    synced: bool = True,
    basis: Basis | None = None,
    known: UUID | None = None,
) -> bool:
    """Add `entry` if the log stands right before it, and return whether it is synced.

    A body of one chunk goes with its entry. A longer one goes first, so that the
    log's row is locked for the last moment only; its chunks vanish with the
    transaction if the entry is refused.

    Args:
        db: the connection.
        key: which log.
        entry: what to add.
        body: its bytes.
        after: the seal of the entry that the writer knows as the last.
        synced: whether it has to be synced. It is, too, if it is the first of a
            burst, or if the log is suspect, which it remains.
        basis: for a rewind, what it relies on.
        known: the life of the server of which the writer knows that it may have
            taken the log's end.

    Raises:
        SequenceTaken: the log stands elsewhere, the basis is not kept any more, or
            the log is suspect unbeknown to the writer.
    """
    check_size(body, entry.body_size)
    if basis is not None:
        async with db.transaction():
            await _lock(db, key, basis)
            return await append(db, key, entry, body, after=after, synced=synced, known=known)
    if entry.body_size <= bodies.CHUNK:
        made = uuid4() if entry.body_size else None
        chunk = next(in_chunks(body, bodies.CHUNK), None)
        return await _add(db, _row(key, entry, after, made, chunk), known, synced=synced)
    stands = await log.head(db, key)
    if stands is None or (stands.head.seq, stands.head.seal) != (entry.seq - 1, after):
        raise _taken(stands)
    async with db.transaction():
        writer = bodies.BodyWriter(db)
        for piece in body:
            await writer.write(piece)
        row = _row(key, entry, after, await writer.end(entry.body_size), None)
        return await _add(db, row, known, synced=synced)


async def _lock(db: Connection, key: str, basis: Basis) -> None:
    """Let nothing be trimmed until the transaction ends, or raise if something of the basis was."""
    trimmed = await db.fetchval(log.LOCK, key)
    lacks = basis.snapshot and not await snapshots.is_kept(db, key, basis.snapshot)
    if trimmed is None or trimmed > basis.after or lacks:
        raise _taken(await log.head(db, key))


async def sync(db: Connection, key: str) -> None:
    """Make everything that was appended durable.

    All of a suspect log is, and it stays suspect. That a log has nothing
    unsynced is seen only when the commit that says so is synced.
    """
    await db.execute(_SYNC, key)


async def _add(
    db: Connection, row: tuple[object, ...], known: UUID | None, *, synced: bool
) -> bool:
    added = await db.fetchrow(_APPEND, *row, synced, known)
    if added is None:
        raise _taken(await log.head(db, str(row[0])))
    unsynced, noted_in = added
    if not synced and noted_in is None:  # the next one shall begin a burst
        await incarnation.ensure(db)
    return bool(unsynced == 0)


def _taken(stands: log.Standing | None) -> SequenceTaken:
    return SequenceTaken(0 if stands is None else stands.head.seq)


def _row(
    key: str, entry: Entry, after: bytes, body: UUID | None, chunk: memoryview | bytearray | None
) -> tuple[object, ...]:
    """Return what the statements take, in their order."""
    return (
        key,
        entry.seq,
        entry.kind,
        entry.n,
        entry.step,
        entry.digest,
        entry.record,
        entry.seal,
        entry.body_size,
        entry.created_at,
        body,
        chunk,
        after,
    )
