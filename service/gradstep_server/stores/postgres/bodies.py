"""Bodies as rows of at most 4 MiB, under an id of their own, in their owner's transaction."""

from __future__ import annotations

from uuid import UUID, uuid4

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.stores.bodies import Chunks, check_count
from gradstep_server.stores.postgres.connections import STATEMENT, Connection, while_connected

CHUNK = 4 * 2**20
_SLOWEST = 4 * 2**20
"""Bytes per second below which a body is not waited for."""

_ADD = "INSERT INTO gradstep_chunks (body, number, data) VALUES ($1, $2, $3)"
_READ = "SELECT data FROM gradstep_chunks WHERE body = $1 AND number = $2"


class BodyWriter:
    """Takes a body piece by piece; holds less than one chunk of it."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._id = uuid4()
        self._chunks = Chunks(CHUNK)
        self._rows = 0

    async def write(self, part: memoryview) -> None:
        """Take the next bytes; they may change when this returns."""
        await self._add(list(self._chunks.cut(part)))

    async def end(self, size: int) -> UUID | None:
        """Write what is left of a body of `size`; return its id, None if it is empty."""
        check_count(self._chunks.taken, size)
        await self._add([self._chunks.rest] if self._chunks.rest else [])
        return self._id if size else None

    async def _add(self, chunks: list[memoryview | bytearray]) -> None:
        """Send the rows one behind the other, without waiting for each."""
        if chunks:
            rows = [(self._id, number, chunk) for number, chunk in enumerate(chunks, self._rows)]
            self._rows += len(rows)
            patience = STATEMENT + len(rows) * CHUNK / _SLOWEST
            async with while_connected(self._db):
                await self._db.executemany(_ADD, rows, timeout=patience)


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
