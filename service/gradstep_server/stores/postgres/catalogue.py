"""Which sessions exist, whose they are, and which were deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time

from gradstep_server.sessions.errors import IdTaken, SequenceTaken
from gradstep_server.sessions.store import Body, Entry, Head, Header, Usage
from gradstep_server.stores.postgres import appending, log
from gradstep_server.stores.postgres.connections import Connection, Row, changed
from gradstep_server.stores.postgres.log import HEAD

_HEADER = "s.tenant, s.id, s.key, s.config, s.digest, s.created_at, s.deleted_at"
_FIELDS = 7
_LOAD = f"SELECT {_HEADER} FROM gradstep_sessions s WHERE tenant = $1 AND id = $2"  # noqa: S608 - constants
_LIVE = f"SELECT {_HEADER}, {HEAD} FROM gradstep_sessions s "  # noqa: S608 - likewise
_LIST = f"""
{_LIVE} LEFT JOIN gradstep_logs l USING (key)
WHERE tenant = $1 AND id > $2 AND deleted_at IS NULL ORDER BY id LIMIT $3
"""
_IDLE = f"""
{_LIVE} JOIN gradstep_logs l USING (key) WHERE l.moved_at < $1 ORDER BY l.moved_at LIMIT $2
"""
_COUNT = """
SELECT tenant, count(*), 0 FROM gradstep_sessions WHERE deleted_at IS NULL
GROUP BY tenant ORDER BY tenant COLLATE "C"
"""
# Beside its body and its record, an entry takes some 300 bytes with its indexes.
_USAGE = """
SELECT tenant, count(*), coalesce(sum(e.nbytes), 0)::bigint + coalesce(sum(p.nbytes), 0)::bigint
FROM gradstep_sessions
LEFT JOIN (
    SELECT key, sum(
        300 + octet_length(record) + CASE WHEN e.seq > l.trimmed THEN body_size ELSE 0 END
    ) AS nbytes FROM gradstep_entries e JOIN gradstep_logs l USING (key) GROUP BY key
) e USING (key)
LEFT JOIN (
    SELECT key, sum(body_size) AS nbytes FROM gradstep_snapshots GROUP BY key
) p USING (key)
WHERE deleted_at IS NULL GROUP BY tenant ORDER BY tenant COLLATE "C"
"""
_ADD = """
INSERT INTO gradstep_sessions (tenant, id, key, config, digest, created_at)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, id) DO NOTHING
"""
_ADD_LOG = """
INSERT INTO gradstep_logs (key, seq, step, seal, moved_at, trimmed) VALUES ($1, 0, 0, '', $2, 0)
"""
_END_LOG = "DELETE FROM gradstep_logs WHERE key = $1 AND ($2::bigint IS NULL OR seq = $2)"
_MARK = "UPDATE gradstep_sessions SET deleted_at = $2 WHERE key = $1 AND deleted_at IS NULL"


async def create(db: Connection, header: Header, entry: Entry | None, body: Body) -> None:
    """Register a session, with its first entry if there is one, or raise `IdTaken`."""
    await _refuse_taken(db, header)
    row = (header.tenant, header.id, header.key, header.config, header.digest, header.created_at)
    async with db.transaction():
        if await db.execute(_ADD, *row) == "INSERT 0 0":
            await _refuse_taken(db, header)
        await db.execute(_ADD_LOG, header.key, header.created_at)
        if entry is not None:
            await appending.append(db, header.key, entry, body, after=b"")


async def load(db: Connection, tenant: str, session_id: str) -> Header | None:
    """Return the header, also that of a deleted session, or None."""
    row = await db.fetchrow(_LOAD, tenant, session_id)
    return None if row is None else Header(*row)


async def page(
    db: Connection, tenant: str, after: str, limit: int
) -> Sequence[tuple[Header, Head]]:
    """Return sessions that are not deleted by id, from behind `after`."""
    return [_live(row) for row in await db.fetch(_LIST, tenant, after, limit)]


async def usage(db: Connection, *, sizes: bool) -> Mapping[str, Usage]:
    """Return what the sessions that are not deleted take, by tenant, in order."""
    return {
        tenant: Usage(count, nbytes)
        for tenant, count, nbytes in await db.fetch(_USAGE if sizes else _COUNT)
    }


async def idle_since(db: Connection, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
    """Return sessions, of any tenant, not updated since `moment`."""
    return [_live(row) for row in await db.fetch(_IDLE, moment, limit)]


async def delete(db: Connection, key: str, seq: int | None) -> None:
    """Delete the session if its log stands at `seq`, else raise `SequenceTaken`.

    Without `seq`, delete it wherever its log stands, or if that is gone.
    """
    async with db.transaction():
        if not changed(await db.execute(_END_LOG, key, seq)):
            stands = await log.head(db, key)
            if stands is not None:
                raise SequenceTaken(stands.head.seq)
        await db.execute(_MARK, key, time())


async def _refuse_taken(db: Connection, header: Header) -> None:
    taken = await load(db, header.tenant, header.id)
    if taken is not None:
        raise IdTaken(taken)


def _live(row: Row) -> tuple[Header, Head]:
    fields = tuple(row)
    header, stands = Header(*fields[:_FIELDS]), fields[_FIELDS:]
    if stands[0] is None:  # the log is gone, though the session was not deleted
        return header, Head(0, 0, header.created_at)
    return header, log.standing(stands).head
