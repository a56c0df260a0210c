"""The catalogue: which sessions exist, whose they are, and which were deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import apsw

from gradstep_server.sessions.errors import IdTaken, SequenceTaken, StoreUnavailable
from gradstep_server.sessions.store import Header
from gradstep_server.stores.sqlite.file import Schema, SqliteFile, build, transaction

SCHEMA = Schema(
    noun="catalogue",
    application_id=0x67734361,  # "gsCa"
    version=1,
    script="""
CREATE TABLE sessions (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    config BLOB NOT NULL,
    digest BLOB NOT NULL,
    created_at REAL NOT NULL,
    deleted_at REAL,
    written INTEGER NOT NULL,  -- 1: the log has, or had, a file
    closing INTEGER NOT NULL,  -- 1: a delete was begun, and the log knows how it ended
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE TABLE probe (written_at REAL NOT NULL) STRICT;
INSERT INTO probe VALUES (0);
""",
    damaged=StoreUnavailable,
)

_COLUMNS = (
    "SELECT tenant, id, key, config, digest, created_at, deleted_at, written, closing "
    "FROM sessions WHERE "
)
_BY_ID = _COLUMNS + "tenant = ? AND id = ?"
_BY_KEY = _COLUMNS + "key = ?"
_PAGE = _COLUMNS + "tenant = ? AND id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?"
_CREATED_BEFORE = _COLUMNS + (
    "key > ? AND created_at < ? AND deleted_at IS NULL ORDER BY key LIMIT ?"
)


class Row(NamedTuple):
    """A session as the catalogue knows it."""

    header: Header
    written: bool
    closing: bool


class Catalogue(SqliteFile):
    """The catalogue's file."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        super().__init__(path, SCHEMA, shared=shared)

    def build(self) -> None:
        """Create the file unless it exists."""
        build(self.path, SCHEMA, 4 * 1024)

    def probe(self) -> None:
        """Write a row durably and read it back."""
        now = time()
        with self.use() as db:
            with transaction(db):
                db.execute("UPDATE probe SET written_at = ?", (now,))
            db.execute("SELECT written_at FROM probe").fetchall()

    def add(self, header: Header, *, written: bool) -> None:
        """Register a session, or raise `IdTaken` if its id was ever given."""
        with self.use() as db, transaction(db):
            taken = _first(db, _BY_ID, header.tenant, header.id)
            if taken is not None:
                raise IdTaken(taken.header)
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, NULL, ?, 0)",
                (
                    header.tenant,
                    header.id,
                    header.key,
                    header.config,
                    header.digest,
                    header.created_at,
                    int(written),
                ),
            )

    def find(self, tenant: str, session_id: str) -> Row | None:
        """Return the session of this id, deleted or not."""
        with self.use() as db:
            return _first(db, _BY_ID, tenant, session_id)

    def of_key(self, key: str) -> Row | None:
        """Return the session of this key, unless it is deleted."""
        with self.use() as db:
            row = _first(db, _BY_KEY, key)
        return None if row is None or row.header.deleted_at is not None else row

    def page(self, tenant: str, after: str, limit: int) -> Sequence[Row]:
        """Return sessions that are not deleted by id, from behind `after`."""
        with self.use() as db:
            return [_row(row) for row in db.execute(_PAGE, (tenant, after, limit))]

    def created_before(self, moment: float, after: str, limit: int) -> Sequence[Row]:
        """Return sessions that are not deleted, of any tenant, by key, from behind `after`."""
        with self.use() as db:
            return [_row(row) for row in db.execute(_CREATED_BEFORE, (after, moment, limit))]

    def written_keys(self) -> set[str]:
        """Return the keys of all logs that must have a file."""
        query = "SELECT key FROM sessions WHERE written AND deleted_at IS NULL"
        with self.use() as db:
            return {key for (key,) in db.execute(query)}

    def mark_written(self, key: str) -> bool:
        """Note that the log has a file; return False if there is no such session."""
        query = "UPDATE sessions SET written = 1 WHERE key = ? AND deleted_at IS NULL"
        with self.use() as db, transaction(db):
            db.execute(query, (key,))
            return db.changes() == 1

    def begin_delete(self, key: str, seq: int) -> bool:
        """Delete a session without a file at once; mark one with a file as closing.

        Returns:
            Whether the log has to be closed, and `finish_delete` called, for the
            session to be deleted.

        Raises:
            SequenceTaken: the log has no file, and `seq` is not 0.
        """
        with self.use() as db, transaction(db):
            row = _first(db, _BY_KEY, key)
            if row is None or row.header.deleted_at is not None:
                return False
            if row.written:
                db.execute("UPDATE sessions SET closing = 1 WHERE key = ?", (key,))
            elif seq == 0:
                _mark_deleted(db, key)
            else:
                raise SequenceTaken(0)
            return row.written

    def finish_delete(self, key: str) -> None:
        """Mark a session as deleted. This commit is what deletes it."""
        with self.use() as db, transaction(db):
            _mark_deleted(db, key)


def _mark_deleted(db: apsw.Connection, key: str) -> None:
    query = "UPDATE sessions SET deleted_at = ? WHERE key = ? AND deleted_at IS NULL"
    db.execute(query, (time(), key))


def _first(db: apsw.Connection, query: str, *bindings: str) -> Row | None:
    row = db.execute(query, bindings).fetchone()
    return None if row is None else _row(row)


def _row(row: tuple[Any, ...]) -> Row:
    *header, written, closing = row
    return Row(Header(*header), bool(written), bool(closing))
