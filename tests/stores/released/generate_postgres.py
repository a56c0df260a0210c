"""Write ``postgres-v<N>.sql``: a database of sessions as the gradstep that is run leaves it.

Run with a released gradstep, from the top of its repository:

    PYTHONPATH=service:tests python THIS_FILE FOLDER

The sessions are those of ``generate_sqlite.py``, made over HTTP. Beside the dump,
``postgres-v<N>.json`` is what can be read from it, taken from the tables and from the service.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
from generate_sqlite import live, look, plain  # type: ignore[import-not-found] # beside this file
from postgres_server import PostgresServer
from session_app import running

IDS = ("adamw", "epochs", "empty")


def main(folder: Path) -> None:
    """Make the sessions, and write their database and what it holds."""
    journal: Any = import_module("gradstep_server.sessions.journal")
    journal.SNAPSHOT_FLOOR, journal.SNAPSHOT_FACTOR = 0, 1  # a trimmed log of few steps
    server = PostgresServer()
    try:
        server.start()
        address = server.database()
        with running(address) as service:
            live(service)
            seen = {name: look(service, name) for name in IDS}
        version, sessions = asyncio.run(read(address))
        for name, facts in seen.items():
            sessions[name].update(facts)
        target, dump = folder / f"postgres-v{version}.sql", server.folder / "dump.sql"
        where = ["--host", str(server.folder), "--username", "postgres"]
        server._run("pg_dump", *where, "--no-owner", "--file", str(dump), "gradstep_1")
        shutil.copy(dump, target)
        lines = [f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in sessions.items()]
        target.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    finally:
        server.close()


async def read(address: str) -> tuple[int, dict[str, Any]]:
    """Return the version of the tables, and what they hold of each session."""
    db = await asyncpg.connect(address)
    try:
        sessions: dict[str, Any] = {}
        for name, key, digest, created_at, deleted in await db.fetch(
            "SELECT id, key, digest, created_at, deleted_at IS NOT NULL FROM gradstep_sessions"
        ):
            facts = {"key": key, "digest": digest.hex(), "created_at": created_at}
            sessions[name] = {**facts, "deleted": deleted, **await log(db, key)}
        return await db.fetchval("SELECT version FROM gradstep_schema"), sessions
    finally:
        await db.close()


async def log(db: Any, key: str) -> dict[str, Any]:
    """Return what the tables hold of one session, bytes as their digests."""
    trimmed = await db.fetchval("SELECT trimmed FROM gradstep_logs WHERE key = $1", key)
    entries = await db.fetch(
        "SELECT seq, kind, n, step, digest, record, seal, body_size, created_at, body "
        "FROM gradstep_entries WHERE key = $1 ORDER BY seq",
        key,
    )
    snapshots = await db.fetch(
        "SELECT seq, record, seal, body_size, body "
        "FROM gradstep_snapshots WHERE key = $1 ORDER BY seq",
        key,
    )
    return {
        "trimmed": trimmed,
        "entries": [[*map(plain, row[:-1]), await body(db, row[-1])] for row in entries],
        "snapshots": [[*map(plain, row[:-1]), await body(db, row[-1])] for row in snapshots],
    }


async def body(db: Any, made: object) -> str | None:
    """Return the digest of a body, None where it has no bytes or was trimmed."""
    query = "SELECT data FROM gradstep_chunks WHERE body = $1 ORDER BY number"
    data = b"".join(row[0] for row in await db.fetch(query, made))
    return hashlib.sha256(data).hexdigest() if data else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
