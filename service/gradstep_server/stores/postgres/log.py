"""One session's log in the tables: what each question and each write is in SQL.

A log that has no row in ``gradstep_logs`` was deleted or never created. Every
question joins that row, so that what a delete has yet to sweep is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt
from gradstep_server.sessions.store import Body, Entry, Head, Snapshot
from gradstep_server.stores.bodies import check_size, in_chunks
from gradstep_server.stores.postgres import bodies
from gradstep_server.stores.postgres.connections import Connection, Row

_PAGE = 64
_INLINE = 64 * 1024
"""Bodies up to this size are read with their entries, `_PAGE` at a time."""

_HEAD = "SELECT seq, step, updated_at FROM gradstep_logs WHERE key = $1"

# One statement is one transaction, and one round trip. Where two meet, the
# second waits for the first, looks at the row again, and changes nothing.
_APPEND = """
WITH moved AS (
    UPDATE gradstep_logs SET seq = seq + 1, step = $5, updated_at = $10
    WHERE key = $1 AND seq = $2::bigint - 1
    RETURNING key
), chunk AS (
    INSERT INTO gradstep_chunks (body, number, data)
    SELECT $11::uuid, 0, $12::bytea FROM moved WHERE $12::bytea IS NOT NULL
)
INSERT INTO gradstep_entries
    (key, seq, kind, n, step, digest, record, seal, body_size, created_at, body)
SELECT key, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM moved
"""

_ENTRY = """
SELECT e.seq, kind, n, e.step, digest, record, seal, body_size, created_at, body
FROM gradstep_logs JOIN gradstep_entries e USING (key) WHERE key = $1 AND
"""
_AT = _ENTRY + "e.seq = $2"
_FIND = _ENTRY + "kind = $2 AND n = $3 ORDER BY e.seq DESC LIMIT 1"
_HISTORY = _ENTRY + "kind = $2 AND n > $3 ORDER BY n, e.seq LIMIT $4"
_NEXT = """
SELECT l.seq, l.trimmed, e.seq, kind, n, e.step, digest, record, seal, body_size, created_at,
    e.body, c.data
FROM gradstep_logs l
LEFT JOIN LATERAL (
    SELECT * FROM gradstep_entries
    WHERE key = $1 AND seq > $2 ORDER BY seq LIMIT $3
) e ON true
LEFT JOIN gradstep_chunks c ON c.body = e.body AND c.number = 0 AND e.body_size <= $4
WHERE l.key = $1 ORDER BY e.seq
"""

_HAS_SNAPSHOT = "SELECT 1 FROM gradstep_snapshots WHERE key = $1 AND seq = $2"
_ADD_SNAPSHOT = """
INSERT INTO gradstep_snapshots (key, seq, record, seal, body_size, body)
SELECT key, $2, $3, $4, $5, $6 FROM gradstep_logs WHERE key = $1 FOR SHARE
ON CONFLICT (key, seq) DO NOTHING
"""
_SNAPSHOT = """
SELECT s.seq, record, seal, body_size, body
FROM gradstep_logs JOIN gradstep_snapshots s USING (key)
WHERE key = $1 ORDER BY s.seq DESC LIMIT 1
"""


class Found(NamedTuple):
    """An entry that a replay comes to."""

    entry: Entry

    body: memoryview | None
    """None where it is so long that it is read by itself, with `read_body`."""


class _NotKept(Exception):
    """Raised to undo what was written for a snapshot that is not to be kept."""


async def head(db: Connection, key: str) -> Head | None:
    """Return where the log stands, or None if there is none."""
    row = await db.fetchrow(_HEAD, key)
    return None if row is None else Head(*row)


async def append(db: Connection, key: str, entry: Entry, body: Body) -> None:
    """Add `entry` if the log stands right before it, else raise `SequenceTaken`.

    A body of one chunk goes with its entry. A longer one goes first, so that the
    log's row is locked for the last moment only; its chunks vanish with the
    transaction if the entry is refused.
    """
    check_size(body, entry.body_size)
    if entry.body_size <= bodies.CHUNK:
        made = uuid4() if entry.body_size else None
        await _add(db, key, entry, made, next(in_chunks(body, bodies.CHUNK), None))
        return
    if await _seq(db, key) != entry.seq - 1:
        raise SequenceTaken(await _seq(db, key))
    async with db.transaction():
        await _add(db, key, entry, await bodies.write(db, body, entry.body_size), None)


async def at(db: Connection, key: str, seq: int) -> Entry | None:
    """Return the entry at this place of the log."""
    return _entry(await db.fetchrow(_AT, key, seq))


async def find(db: Connection, key: str, kind: str, n: int) -> Entry | None:
    """Return the newest entry of this kind and number."""
    return _entry(await db.fetchrow(_FIND, key, kind, n))


async def history(db: Connection, key: str, kind: str, after: int, limit: int) -> Sequence[Entry]:
    """Return entries of this kind with ``n > after``, by n."""
    rows = await db.fetch(_HISTORY, key, kind, after, limit)
    return [Entry(*tuple(row)[:-1]) for row in rows]


async def following(db: Connection, key: str, after: int) -> Sequence[Found]:
    """Return the next few entries behind `after`, short bodies with them; none at the end.

    Raises:
        SessionCorrupt: an entry or a body is missing.
    """
    found: list[Found] = []
    for row in await db.fetch(_NEXT, key, after, _PAGE, _INLINE):
        stands, trimmed, seq, *_ = row
        expected = after + 1 + len(found)
        if stands < expected:
            break
        if seq != expected:
            raise SessionCorrupt(f"Entry {expected} is missing.")
        if seq <= trimmed:
            raise SessionCorrupt(f"Entry {seq} cannot be replayed: its body was trimmed.")
        entry = Entry(*tuple(row)[2:-2])
        found.append(Found(entry, _inline(entry, row[-1])))
    return found


async def read_body(db: Connection, key: str, seq: int) -> memoryview | None:
    """Return the body of an entry as of one moment, or None if the log is deleted by now."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        trimmed = await db.fetchval("SELECT trimmed FROM gradstep_logs WHERE key = $1", key)
        row = await db.fetchrow(_AT, key, seq)
        if trimmed is None:
            return None
        if row is None:
            raise SessionCorrupt(f"Entry {seq} is missing.")
        if seq <= trimmed:
            raise SessionCorrupt(f"Entry {seq} cannot be replayed: its body was trimmed.")
        *_, size, _, body = row
        return await bodies.read(db, body, size, f"entry {seq}")


async def put_snapshot(db: Connection, key: str, snapshot: Snapshot, body: Body) -> None:
    """Keep a snapshot, unless there is one of this `seq`, or no log any more."""
    check_size(body, snapshot.body_size)
    if await db.fetchval(_HAS_SNAPSHOT, key, snapshot.seq) is not None:
        return
    try:
        async with db.transaction():
            made = await bodies.write(db, body, snapshot.body_size)
            row = (snapshot.seq, snapshot.record, snapshot.seal, snapshot.body_size, made)
            if not _changed(await db.execute(_ADD_SNAPSHOT, key, *row)):
                raise _NotKept
    except _NotKept:
        return


async def snapshot(db: Connection, key: str) -> tuple[Snapshot, memoryview] | None:
    """Return the newest snapshot with its body."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        row = await db.fetchrow(_SNAPSHOT, key)
        if row is None:
            return None
        *fields, body = row
        found = Snapshot(*fields)
        return found, await bodies.read(db, body, found.body_size, f"snapshot {found.seq}")


async def _add(
    db: Connection, key: str, entry: Entry, body: object, chunk: memoryview | bytearray | None
) -> None:
    row = (
        entry.seq,
        entry.kind,
        entry.n,
        entry.step,
        entry.digest,
        entry.record,
        entry.seal,
        entry.body_size,
        entry.created_at,
    )
    if not _changed(await db.execute(_APPEND, key, *row, body, chunk)):
        raise SequenceTaken(await _seq(db, key))


async def _seq(db: Connection, key: str) -> int:
    found = await head(db, key)
    return 0 if found is None else found.seq


def _inline(entry: Entry, data: bytes | None) -> memoryview | None:
    if entry.body_size > _INLINE:
        return None
    body = memoryview(data or b"")
    if body.nbytes != entry.body_size:
        raise bodies.incomplete(f"entry {entry.seq}")
    return body


def _entry(row: Row | None) -> Entry | None:
    return None if row is None else Entry(*tuple(row)[:-1])


def _changed(status: str) -> bool:
    """Whether a statement has changed a row, as its ``INSERT 0 1`` or ``UPDATE 1`` says."""
    return not status.endswith(" 0")
