"""Which life of the server this is: how a log is known that may have lost its end.

A commit that was not synced is lost when the server crashes. The same crash
empties UNLOGGED tables, as a failover and a restored base backup do, and an
orderly restart keeps them. So the one row of ``gradstep_incarnation``, a random
id, names the life of the server, and the first unsynced entry of a burst notes
it, synced, in ``gradstep_logs.unsynced_in``. A log that names another life than
the present one is suspect.

Whatever compares the two does so in one statement, which never spans two lives.
"""

from __future__ import annotations

from uuid import uuid4

from gradstep_server.stores.postgres.connections import Connection

PRESENT = "(SELECT id FROM gradstep_incarnation)"
"""In SQL, the present life; null after a crash, until `ensure` names it. No burst begins then."""

LOST = f"CASE WHEN l.unsynced_in IS DISTINCT FROM {PRESENT} THEN l.unsynced_in END"
"""In SQL, the life in which a log `l` may have lost its end; null unless it is suspect."""

_NAME = "INSERT INTO gradstep_incarnation (id) VALUES ($1) ON CONFLICT DO NOTHING"


async def ensure(db: Connection) -> None:
    """Name this life of the server, unless some replica has."""
    await db.execute(_NAME, uuid4())
