"""Dropping what is no longer needed, in statements that each drop a little."""

from __future__ import annotations

from gradstep_server.stores.postgres.connections import Connection

_ENTRIES = 256
_BYTES = 64 * 2**20
"""What one statement drops at most; an entry that is longer goes by itself."""

_OLD = """
SELECT seq, body FROM (
    SELECT seq, body, body_size, sum(body_size) OVER (ORDER BY seq) AS total
    FROM (
        SELECT seq, body, body_size FROM gradstep_entries
        WHERE key = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
    ) next
) summed WHERE total - body_size < $5
"""
_TRIM_ENTRIES = f"""
WITH old AS ({_OLD}), dropped AS (
    DELETE FROM gradstep_chunks c USING old WHERE c.body = old.body
)
UPDATE gradstep_logs SET trimmed = greatest(trimmed, (SELECT max(seq) FROM old))
WHERE key = $1 AND EXISTS (SELECT 1 FROM old)
"""  # noqa: S608 - made of constants
_SWEEP_ENTRIES = f"""
WITH old AS ({_OLD}), dropped AS (
    DELETE FROM gradstep_chunks c USING old WHERE c.body = old.body
)
DELETE FROM gradstep_entries e USING old WHERE e.key = $1 AND e.seq = old.seq
"""  # noqa: S608 - likewise
_DROP_SNAPSHOTS = """
WITH old AS (
    DELETE FROM gradstep_snapshots WHERE key = $1 AND seq < $2 RETURNING body
)
DELETE FROM gradstep_chunks c USING old WHERE c.body = old.body
"""
_SECOND_NEWEST = """
SELECT seq FROM gradstep_snapshots WHERE key = $1 ORDER BY seq DESC LIMIT 1 OFFSET 1
"""
_UNSWEPT = "SELECT key FROM gradstep_sessions WHERE deleted_at IS NOT NULL AND NOT swept LIMIT 100"
_ALL = 2**63 - 1


async def trim(db: Connection, key: str) -> bool:
    """Drop some of what is older than the second-newest snapshot.

    Returns:
        Whether there may be more to drop.
    """
    oldest = await db.fetchval(_SECOND_NEWEST, key)
    trimmed = await db.fetchval("SELECT trimmed FROM gradstep_logs WHERE key = $1", key)
    if oldest is None or trimmed is None:
        return False
    await db.execute(_DROP_SNAPSHOTS, key, oldest)
    status = await db.execute(_TRIM_ENTRIES, key, trimmed, oldest, _ENTRIES, _BYTES)
    return status != "UPDATE 0"


async def sweep(db: Connection, key: str) -> None:
    """Drop the log of a deleted session, a little at a time."""
    await db.execute(_DROP_SNAPSHOTS, key, _ALL)
    while await db.execute(_SWEEP_ENTRIES, key, 0, _ALL, _ENTRIES, _BYTES) != "DELETE 0":
        pass
    await db.execute("UPDATE gradstep_sessions SET swept = true WHERE key = $1", key)


async def sweep_all(db: Connection) -> None:
    """Drop the logs of deleted sessions that a crash, or a failure, has left."""
    while rows := await db.fetch(_UNSWEPT):
        for (key,) in rows:
            await sweep(db, key)
