"""Bodies inside a session's file: rows of at most 1 MiB, so that no body is ever joined.

A body's rows carry consecutive ids from a base that is free when the body is
begun. A body of one row is written with what it belongs to, in one transaction.
A longer one is written row by row and listed as pending until what it belongs
to is committed; what a crash leaves pending is swept.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import apsw

from gradstep_server.sessions.errors import SessionCorrupt, StoreUnavailable
from gradstep_server.sessions.store import Body
from gradstep_server.stores.bodies import in_chunks
from gradstep_server.stores.sqlite.transaction import transaction

CHUNK = 2**20
SPAN = 2**20
"""How many ids one body may use: with a chunk of 1 MiB, 1 TiB."""

EMPTY = 0
"""The base of a body without bytes; real ones are multiples of `SPAN`."""

SCRIPT = """
CREATE TABLE chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE pending (base INTEGER PRIMARY KEY, writer INTEGER NOT NULL) STRICT;
"""

_INSERT = "INSERT INTO chunks (id, data) VALUES (?, ?)"

Chunk = memoryview | bytearray


class Staged(NamedTuple):
    """A body on its way into the file."""

    base: int
    """Where its rows are, or `EMPTY`; for a body of one row, not decided yet."""

    only: Chunk | None
    """The one row of a body that has one."""


def stage(db: apsw.Connection, body: Body, size: int, writer: int) -> Staged:
    """Write a long body in transactions of its own; keep a short one for `commit`."""
    chunks = in_chunks(body, CHUNK)
    if size <= CHUNK:
        return Staged(EMPTY, next(chunks, None))
    base = begin(db, next(chunks), writer)
    for number, chunk in enumerate(chunks, start=1):
        extend(db, base, number, chunk)
    return Staged(base, None)


def begin(db: apsw.Connection, chunk: Chunk, writer: int) -> int:
    """Write the first row of a long body, pending; return the body's base."""
    with transaction(db, durable=False):
        base = _free_base(db)
        db.execute("INSERT INTO pending (base, writer) VALUES (?, ?)", (base, writer))
        db.execute(_INSERT, (base, chunk))
    return base


def extend(db: apsw.Connection, base: int, number: int, chunk: Chunk) -> None:
    """Write row `number` of a long body that was begun; the first is 0."""
    with transaction(db, durable=False):
        db.execute(_INSERT, (base + number, chunk))


def commit(db: apsw.Connection, staged: Staged, size: int) -> int:
    """Inside the transaction that refers to the body, make it stay; return its base."""
    if staged.only is not None:
        base = _free_base(db)
        db.execute(_INSERT, (base, staged.only))
        return base
    if staged.base != EMPTY:
        if _stored_size(db, staged.base) != size:
            raise StoreUnavailable("The body was lost while it was written; send it again.")
        db.execute("DELETE FROM pending WHERE base = ?", (staged.base,))
    return staged.base


def abandon(db: apsw.Connection, base: int) -> None:
    """Remove a long body that is not to be committed."""
    if base != EMPTY:
        with transaction(db, durable=False):
            delete(db, base)
            db.execute("DELETE FROM pending WHERE base = ?", (base,))


def sweep(db: apsw.Connection, writer: int | None, live: Container[int]) -> None:
    """Remove what is pending: of this writer or of all, but for the bases in `live`.

    None of the others may still be written.
    """
    query = "SELECT base FROM pending WHERE writer = ?1 OR ?1 IS NULL"
    pending: list[Any] = db.execute(query, (writer,)).fetchall()
    for (base,) in pending:
        if base not in live:
            abandon(db, base)


def delete(db: apsw.Connection, base: int) -> None:
    """Inside a transaction, remove a body."""
    db.execute("DELETE FROM chunks WHERE id >= ? AND id < ?", (base, base + SPAN))


def read(db: apsw.Connection, base: int, size: int, owner: str) -> memoryview:
    """Return a body, read into one buffer of its size.

    Raises:
        SessionCorrupt: rows are missing, or their sizes do not add up to `size`.
    """
    if (0 if base == EMPTY else _stored_size(db, base)) != size:
        raise SessionCorrupt(f"The body of {owner} is not complete.")
    buffer = memoryview(bytearray(size))
    filled, number = 0, base
    while filled < size:
        try:
            with db.blob_open("main", "chunks", "data", number, writeable=False) as blob:
                length = blob.length()
                blob.read_into(buffer[filled : filled + length])
        except (apsw.SQLError, ValueError) as error:  # no such row, or it is too long
            raise SessionCorrupt(f"The body of {owner} is not complete.") from error
        filled += length
        number += 1
    return buffer


def _free_base(db: apsw.Connection) -> int:
    """Return a base that no body uses. Inside a transaction only one writer asks."""
    highest = db.execute("SELECT max(id) FROM chunks").get
    return ((highest or 0) // SPAN + 1) * SPAN


def _stored_size(db: apsw.Connection, base: int) -> int:
    query = "SELECT coalesce(sum(length(data)), 0) FROM chunks WHERE id >= ? AND id < ?"
    return int(db.execute(query, (base, base + SPAN)).get)
