"""Dropping what is no longer needed, in statements that each drop a little."""

from __future__ import annotations

from collections.abc import Sequence

from gradstep_server.stores.postgres import log
from gradstep_server.stores.postgres.connections import Connection, Row, changed

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
_BASE = """
SELECT min(base) FROM gradstep_snapshots
WHERE key = $1 AND seq >= $2 HAVING bool_or(seq = $2)
"""
_REWOUND = "SELECT max(seq) FROM gradstep_entries WHERE key = $1 AND kind = 'rewind'"
_UNSWEPT = """
SELECT key, id FROM gradstep_sessions
WHERE deleted_at IS NOT NULL AND NOT swept AND key > $1 ORDER BY key LIMIT 100
"""
_ALL = 2**63 - 1


async def trim(db: Connection, key: str, oldest: int, rewound: int | None) -> bool:
    """Drop some of what is older than the snapshot `oldest`, if that is kept.

    Returns:
        Whether there may be more to drop.
    """
    async with db.transaction():
        # A statement of its own, so that the others see what those have done that held the lock.
        trimmed = await db.fetchval(log.LOCK, key)
        base = await db.fetchval(_BASE, key, oldest)
        if trimmed is None or base is None:
            return False
        if rewound not in {None, await db.fetchval(_REWOUND, key) or 0}:
            return False
        await db.execute(_DROP_SNAPSHOTS, key, oldest)
        return changed(await db.execute(_TRIM_ENTRIES, key, trimmed, base, _ENTRIES, _BYTES))


async def sweep(db: Connection, key: str) -> None:
    """Drop the log of a deleted session, a little at a time."""
    await db.execute(_DROP_SNAPSHOTS, key, _ALL)
    while changed(await db.execute(_SWEEP_ENTRIES, key, 0, _ALL, _ENTRIES, _BYTES)):
        pass
    await db.execute("UPDATE gradstep_sessions SET swept = true WHERE key = $1", key)


async def unswept(db: Connection, after: str) -> Sequence[Row]:
    """Return key and id of deleted sessions that a crash, or a failure, has left, by key."""
    return await db.fetch(_UNSWEPT, after)
