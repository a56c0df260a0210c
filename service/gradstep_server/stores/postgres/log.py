"""One session's log in the tables: what each question is in SQL.

A log that has no row in ``gradstep_logs`` was deleted or never created. Every
question joins that row, so that what a delete has yet to sweep is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from gradstep_server.sessions.errors import SessionCorrupt, StoreUnavailable
from gradstep_server.sessions.store import Entry, Head
from gradstep_server.stores.postgres import bodies
from gradstep_server.stores.postgres.connections import Connection, Row
from gradstep_server.stores.postgres.incarnation import LOST

END = 2**63 - 1
"""Behind every entry."""

_PAGE = 64
_INLINE = 64 * 1024
"""Bodies up to this size are read with their entries, `_PAGE` at a time."""

HEAD = f"l.seq, l.step, l.moved_at, l.seal, l.trimmed, {LOST}"
"""What `standing` reads of a log `l`, in SQL."""

LOCK = "SELECT trimmed FROM gradstep_logs WHERE key = $1 FOR UPDATE"
"""Within a transaction, keep everyone else from moving and from trimming the log."""

_HEAD = f"SELECT {HEAD} FROM gradstep_logs l WHERE key = $1"  # noqa: S608 - made of constants

_FIELDS = "e.seq, kind, n, e.step, digest, record, e.seal, body_size, created_at, e.body"
_ENTRY = f"SELECT {_FIELDS} FROM gradstep_logs JOIN gradstep_entries e USING (key) WHERE key = $1 "  # noqa: S608 - likewise
_AT = _ENTRY + "AND e.seq = $2"
_FIND = _ENTRY + "AND kind = $2 AND n = $3 ORDER BY e.seq DESC LIMIT 1"
_HISTORY = f"""
SELECT DISTINCT ON (n) {_FIELDS} FROM gradstep_logs JOIN gradstep_entries e USING (key)
WHERE key = $1 AND kind = $2 AND n > $3 AND n <= $4 ORDER BY n, e.seq DESC LIMIT $5
"""  # noqa: S608 - likewise

# Most entries are steps, so the last one is near. All others have an index.
_LAST = _ENTRY + "AND kind = $2 AND e.seq <= $3 ORDER BY e.seq DESC LIMIT 1"
_LAST_OTHER = _LAST.replace("AND kind", "AND kind <> 'step' AND kind")

_NEXT = f"""
SELECT l.seq, l.trimmed, (SELECT seal FROM gradstep_entries WHERE key = $1 AND seq = $2) AS before,
    {_FIELDS}, c.data
FROM gradstep_logs l
LEFT JOIN LATERAL (
    SELECT * FROM gradstep_entries
    WHERE key = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
) e ON true
LEFT JOIN gradstep_chunks c ON c.body = e.body AND c.number = 0 AND e.body_size <= $5
WHERE l.key = $1 ORDER BY e.seq
"""  # noqa: S608 - likewise


class Found(NamedTuple):
    """An entry that a replay comes to."""

    entry: Entry

    body: memoryview | None
    """None where it is so long that it is read by itself, with `read_body`."""


class Standing(NamedTuple):
    """Where a log stands."""

    head: Head

    lost: UUID | None
    """The life of the server in which a suspect log may have lost its end."""


def standing(row: Row) -> Standing:
    """Return what a query for `HEAD` has found."""
    seq, step, moved_at, seal, trimmed, lost = row
    return Standing(Head(seq, step, moved_at, seal, trimmed, lost is not None), lost)


async def head(db: Connection, key: str) -> Standing | None:
    """Return where the log stands, or None if there is none."""
    row = await db.fetchrow(_HEAD, key)
    return None if row is None else standing(row)


async def at(db: Connection, key: str, seq: int) -> Entry | None:
    """Return the entry at this place of the log."""
    return _entry(await db.fetchrow(_AT, key, seq))


async def find(db: Connection, key: str, kind: str, n: int) -> Entry | None:
    """Return the newest entry of this kind and number."""
    return _entry(await db.fetchrow(_FIND, key, kind, n))


async def newest(db: Connection, key: str, kind: str, upto: int) -> Entry | None:
    """Return the last entry of this kind with ``seq <= upto``."""
    return _entry(await db.fetchrow(_LAST if kind == "step" else _LAST_OTHER, key, kind, upto))


async def history(
    db: Connection, key: str, kind: str, after: int, upto: int, limit: int
) -> Sequence[Entry]:
    """Return the newest entry of each n with ``after < n <= upto``, by n."""
    rows = await db.fetch(_HISTORY, key, kind, after, upto, limit)
    return [Entry(*tuple(row)[:-1]) for row in rows]


async def following(
    db: Connection, key: str, after: int, upto: int, before: bytes | None
) -> Sequence[Found]:
    """Return the next few entries behind `after`, short bodies with them; none at the end.

    Args:
        db: the connection.
        key: which log.
        after: the entry that was read last.
        upto: the last entry to read.
        before: the seal of `after` as it was read, None if it was not.

    Raises:
        SessionCorrupt: an entry or a body is missing.
        StoreUnavailable: the log is not the one any more of which `after` was read.
    """
    found: list[Found] = []
    for row in await db.fetch(_NEXT, key, after, upto, _PAGE, _INLINE):
        stands, trimmed, seal, *fields, _, data = row
        if before is not None and before != seal:
            raise _lost()
        expected = after + 1 + len(found)
        if min(stands, upto) < expected:
            break
        if fields[0] != expected:
            raise SessionCorrupt(f"Entry {expected} is missing.")
        entry = Entry(*fields)
        _check_kept(entry, trimmed)
        found.append(Found(entry, _inline(entry, data)))
    return found


async def read_body(db: Connection, key: str, entry: Entry) -> memoryview | None:
    """Return the body of an entry as of one moment, or None if the log is deleted by now."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        trimmed = await db.fetchval("SELECT trimmed FROM gradstep_logs WHERE key = $1", key)
        row = await db.fetchrow(_AT, key, entry.seq)
        if trimmed is None:
            return None
        if _entry(row) != entry or row is None:
            raise _lost()
        _check_kept(entry, trimmed)
        return await bodies.read(db, row[-1], entry.body_size, f"entry {entry.seq}")


def _check_kept(entry: Entry, trimmed: int) -> None:
    if entry.seq <= trimmed:
        raise SessionCorrupt(f"Entry {entry.seq} cannot be replayed: its body was trimmed.")


def _lost() -> StoreUnavailable:
    return StoreUnavailable(
        "PostgreSQL lost the end of the log in a crash while it was read; send it again."
    )


def _inline(entry: Entry, data: bytes | None) -> memoryview | None:
    if entry.body_size > _INLINE:
        return None
    body = memoryview(data or b"")
    if body.nbytes != entry.body_size:
        raise bodies.incomplete(f"entry {entry.seq}")
    return body


def _entry(row: Row | None) -> Entry | None:
    return None if row is None else Entry(*tuple(row)[:-1])
