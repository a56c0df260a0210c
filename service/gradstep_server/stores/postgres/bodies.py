"""Bodies as rows of at most 4 MiB, under an id of their own, in their owner's transaction."""

from __future__ import annotations

from uuid import UUID, uuid4

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Body
from gradstep_server.stores.bodies import in_chunks
from gradstep_server.stores.postgres.connections import STATEMENT, Connection

CHUNK = 4 * 2**20
_SLOWEST = 4 * 2**20
"""Bytes per second below which a body is not waited for."""

_ADD = "INSERT INTO gradstep_chunks (body, number, data) VALUES ($1, $2, $3)"
_READ = "SELECT data FROM gradstep_chunks WHERE body = $1 AND number = $2"


async def write(db: Connection, body: Body, size: int) -> UUID | None:
    """Inside the transaction of its owner, write a body; return its id, None if it is empty.

    The rows are sent while they are read, one behind the other, without waiting for each.
    """
    if not size:
        return None
    made = uuid4()
    rows = ((made, number, chunk) for number, chunk in enumerate(in_chunks(body, CHUNK)))
    await db.executemany(_ADD, rows, timeout=STATEMENT + size / _SLOWEST)
    return made


async def read(db: Connection, body: UUID | None, size: int, owner: str) -> memoryview:
    """Return a body, read into one buffer of its size.

    Raises:
        SessionCorrupt: rows are missing, or their sizes do not add up to `size`.
    """
    buffer = memoryview(bytearray(size))
    filled = number = 0
    while filled < size:
        data: bytes | None = await db.fetchval(_READ, body, number)
        if not data or filled + len(data) > size:
            raise incomplete(owner)
        buffer[filled : filled + len(data)] = data
        filled += len(data)
        number += 1
    return buffer


def incomplete(owner: str) -> SessionCorrupt:
    """Return what to raise when bytes are missing."""
    return SessionCorrupt(f"The body of {owner} is not complete.")
