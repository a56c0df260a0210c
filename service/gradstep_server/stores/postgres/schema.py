"""The tables, and the way from each version of them to the next."""

from __future__ import annotations

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.stores.postgres.connections import Connection

_LOCK = 0x6772616473746570  # "gradstep"
"""The advisory lock under which one process at a time migrates."""

_LONGEST = 3600.0
"""Seconds that a step may take, or that another process may take for all of them."""

# What is written with every entry is apart from what never changes, so that an
# append rewrites a short row. No foreign keys: every append would lock for them.
_V1 = """
CREATE TABLE gradstep_sessions (
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL UNIQUE,
    config bytea NOT NULL,
    digest bytea NOT NULL,
    created_at double precision NOT NULL,
    deleted_at double precision,
    swept boolean NOT NULL DEFAULT false,  -- deleted, and its log is gone
    PRIMARY KEY (tenant, id)
);
CREATE INDEX gradstep_sessions_live ON gradstep_sessions (tenant, id) WHERE deleted_at IS NULL;
CREATE INDEX gradstep_sessions_unswept ON gradstep_sessions (key)
    WHERE deleted_at IS NOT NULL AND NOT swept;

CREATE TABLE gradstep_logs (  -- of sessions that are not deleted
    key text COLLATE "C" PRIMARY KEY,
    seq bigint NOT NULL,
    step bigint NOT NULL,
    updated_at double precision NOT NULL,
    trimmed bigint NOT NULL  -- the last entry whose body is gone
);
CREATE INDEX gradstep_logs_by_time ON gradstep_logs (updated_at);

CREATE TABLE gradstep_entries (
    key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    step bigint NOT NULL,
    digest bytea NOT NULL,
    record bytea NOT NULL,
    seal bytea NOT NULL,
    body_size bigint NOT NULL,
    created_at double precision NOT NULL,
    body uuid,  -- of its chunks; null when it is empty
    PRIMARY KEY (key, seq)
);
CREATE INDEX gradstep_entries_by_n ON gradstep_entries (key, kind, n, seq);

CREATE TABLE gradstep_snapshots (
    key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    record bytea NOT NULL,
    seal bytea NOT NULL,
    body_size bigint NOT NULL,
    body uuid,
    PRIMARY KEY (key, seq)
);

CREATE TABLE gradstep_chunks (
    body uuid NOT NULL,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (body, number)
);
ALTER TABLE gradstep_chunks ALTER COLUMN data SET STORAGE EXTERNAL;  -- gradients do not compress

CREATE TABLE gradstep_probe (written_at double precision NOT NULL);
INSERT INTO gradstep_probe VALUES (0);
"""

_V2 = """
ALTER TABLE gradstep_logs
    ADD COLUMN seal bytea,  -- of the last entry; empty for an empty log
    ADD COLUMN unsynced_in uuid,  -- the life of the server that has not synced all entries
    ADD COLUMN unsynced bigint NOT NULL DEFAULT 0;  -- how many there are of those
UPDATE gradstep_logs l SET seal = coalesce(
    (SELECT e.seal FROM gradstep_entries e WHERE e.key = l.key AND e.seq = l.seq), ''
);
ALTER TABLE gradstep_logs ALTER COLUMN seal SET NOT NULL;

-- An older gradstep that still runs would append without seals: it finds no log.
ALTER TABLE gradstep_logs RENAME COLUMN updated_at TO moved_at;

CREATE UNLOGGED TABLE gradstep_incarnation (  -- emptied by a crash of the server
    id uuid NOT NULL,
    one boolean PRIMARY KEY DEFAULT true CHECK (one)
);

CREATE INDEX gradstep_entries_by_kind ON gradstep_entries (key, kind, seq)
    WHERE kind <> 'step';

ALTER TABLE gradstep_snapshots ADD COLUMN base bigint;
UPDATE gradstep_snapshots SET base = seq;
ALTER TABLE gradstep_snapshots ALTER COLUMN base SET NOT NULL;
"""

STEPS: tuple[str, ...] = (_V1, _V2)
"""Step n leads from version n to version n + 1; an empty database has version 0."""


async def migrate(db: Connection) -> None:
    """Bring the tables to this version of gradstep, whoever else tries at the same time.

    Raises:
        StoreUnavailable: a newer gradstep has made them.
    """
    async with db.transaction():
        await db.execute("SELECT pg_advisory_xact_lock($1)", _LOCK, timeout=_LONGEST)
        version = await _version(db)
        if version > len(STEPS):
            raise StoreUnavailable(
                f"The database has format {version}, and this version of gradstep knows "
                f"{len(STEPS)}; run a newer gradstep."
            )
        for step in STEPS[version:]:
            await db.execute(step, timeout=_LONGEST)
        if version < len(STEPS):
            await db.execute("UPDATE gradstep_schema SET version = $1", len(STEPS))


async def _version(db: Connection) -> int:
    if await db.fetchval("SELECT to_regclass('gradstep_schema')::text") is None:
        await db.execute("CREATE TABLE gradstep_schema (version integer NOT NULL)")
        await db.execute("INSERT INTO gradstep_schema VALUES (0)")
    return int(await db.fetchval("SELECT version FROM gradstep_schema"))
