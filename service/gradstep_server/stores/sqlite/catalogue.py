"""The catalogue: which sessions exist, whose they are, and which were deleted.

A file of which a bit is lost must not lose a session, or give it to another.
Every row has a seal; the tables are checked when the store is opened; and what
is committed goes into the file itself at once: SQLite cannot tell a damaged
write-ahead log from one that a crash has cut off, and ends it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import apsw

from gradstep_server.sessions.errors import IdTaken, SequenceTaken, StoreUnavailable
from gradstep_server.sessions.store import Header
from gradstep_server.stores.sqlite.file import SqliteFile, unless_full
from gradstep_server.stores.sqlite.schema import Schema, build
from gradstep_server.stores.sqlite.transaction import transaction

_V1 = """
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
"""

_V2 = "ALTER TABLE sessions ADD COLUMN seal BLOB;  -- NULL: unchanged since version 1"

SCHEMA = Schema(
    noun="catalogue",
    application_id=0x67734361,  # "gsCa"
    steps=(_V1, _V2),
    damaged=StoreUnavailable,
)

_COLUMNS = (
    "SELECT tenant, id, key, config, digest, created_at, deleted_at, written, closing, seal "
    "FROM sessions WHERE "
)
_BY_ID = _COLUMNS + "tenant = ? AND id = ?"
_BY_KEY = _COLUMNS + "key = ?"
_PAGE = _COLUMNS + "tenant = ? AND id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?"
_OWNERS = "SELECT tenant, key FROM sessions WHERE deleted_at IS NULL ORDER BY tenant"
_CREATED_BEFORE = _COLUMNS + (
    "key > ? AND created_at < ? AND deleted_at IS NULL ORDER BY key LIMIT ?"
)


_LIVE = _COLUMNS + "deleted_at IS NULL"
_ADD = "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE = "UPDATE sessions SET deleted_at = ?, written = ?, closing = ?, seal = ? WHERE key = ?"


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

    def prepare(self, db: apsw.Connection) -> None:
        """Put what a crash left in the log into the file."""
        _settle(db)

    def verify(self) -> None:
        """Raise `StoreUnavailable` if a table or an index is damaged."""
        with self.use() as db:
            found = db.execute("PRAGMA integrity_check(1)").get
            if found != "ok":
                raise _damaged(found)

    def probe(self) -> None:
        """Write a row durably and read it back."""
        now = time()
        with self.use() as db:
            with transaction(db):
                db.execute("UPDATE probe SET written_at = ?", (now,))
            db.execute("SELECT written_at FROM probe").fetchall()

    def add(self, header: Header, *, written: bool) -> None:
        """Register a session, or raise `IdTaken` if its id was ever given."""
        with self._change() as db:
            taken = _first(db, _BY_ID, header.tenant, header.id)
            if taken is not None:
                raise IdTaken(taken.header)
            facts = _facts(Row(header, written, closing=False))
            db.execute(_ADD, (*facts, _seal(facts)))

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

    def owners(self) -> Sequence[tuple[str, str]]:
        """Return tenant and key of the sessions that are not deleted, by tenant."""
        with self.use() as db:
            return list(db.execute(_OWNERS))

    def created_before(self, moment: float, after: str, limit: int) -> Sequence[Row]:
        """Return sessions that are not deleted, of any tenant, by key, from behind `after`."""
        with self.use() as db:
            return [_row(row) for row in db.execute(_CREATED_BEFORE, (after, moment, limit))]

    def written_keys(self) -> set[str]:
        """Return the keys of all logs that must have a file."""
        with self.use() as db:
            return {row.header.key for row in map(_row, db.execute(_LIVE)) if row.written}

    def keys(self) -> set[str]:
        """Return the keys of all sessions, deleted or not."""
        with self.use() as db:
            return {key for (key,) in db.execute("SELECT key FROM sessions")}

    def live(self) -> dict[str, str]:
        """Return the keys of the sessions that are not deleted, with their ids."""
        with self.use() as db:
            return {row.header.key: row.header.id for row in map(_row, db.execute(_LIVE))}

    def mark_written(self, key: str) -> bool:
        """Note that the log has a file; return False if there is no such session."""
        with self._change() as db:
            row = _first(db, _BY_KEY, key)
            if row is None or row.header.deleted_at is not None:
                return False
            _put(db, row._replace(written=True))
            return True

    def begin_delete(self, key: str, seq: int | None) -> bool:
        """Delete a session without a file at once; mark one with a file as closing.

        Args:
            key: which session.
            seq: where its log should stand, None for anywhere.

        Returns:
            Whether the log has to be closed, and `finish_delete` called, for the
            session to be deleted.

        Raises:
            SequenceTaken: the log has no file, and `seq` is not 0.
        """
        with self._change() as db:
            row = _first(db, _BY_KEY, key)
            if row is None or row.header.deleted_at is not None:
                return False
            if row.written:
                _put(db, row._replace(closing=True))
            elif seq in {0, None}:
                _put(db, _deleted(row))
            else:
                raise SequenceTaken(0)
            return row.written

    def finish_delete(self, key: str) -> None:
        """Mark a session as deleted. This commit is what deletes it."""
        with self._change() as db:
            row = _first(db, _BY_KEY, key)
            if row is not None and row.header.deleted_at is None:
                _put(db, _deleted(row))

    @contextmanager
    def _change(self) -> Iterator[apsw.Connection]:
        """Lend the connection for one transaction."""
        with self.use() as db:
            with transaction(db):
                yield db
            with unless_full(db):
                _settle(db)


def _settle(db: apsw.Connection) -> None:
    """Put what is committed into the file, and empty the log."""
    with suppress(apsw.BusyError):  # then another connection writes, and does it behind us
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _deleted(row: Row) -> Row:
    return row._replace(header=replace(row.header, deleted_at=time()))


def _put(db: apsw.Connection, row: Row) -> None:
    """Inside a transaction, write what of a session can change."""
    facts = _facts(row)
    db.execute(_CHANGE, (*facts[-3:], _seal(facts), row.header.key))


def _first(db: apsw.Connection, query: str, *bindings: str) -> Row | None:
    row = db.execute(query, bindings).fetchone()
    return None if row is None else _row(row)


def _row(row: tuple[Any, ...]) -> Row:
    """Read a row of `_COLUMNS`.

    Raises:
        StoreUnavailable: it is not what was written.
    """
    *facts, seal = row
    if seal is not None and seal != _seal(facts):
        raise _damaged(f"the row of session {row[1]!r} does not match its seal")
    *header, written, closing = facts
    return Row(Header(*header), bool(written), bool(closing))


def _facts(row: Row) -> Sequence[str | bytes | float | None]:
    """Return what a session's row holds, its seal left out."""
    header = row.header
    return (
        header.tenant,
        header.id,
        header.key,
        header.config,
        header.digest,
        header.created_at,
        header.deleted_at,
        int(row.written),
        int(row.closing),
    )


def _seal(facts: Sequence[object]) -> bytes:
    return hashlib.blake2b(repr(tuple(facts)).encode(), digest_size=16).digest()


def _damaged(found: object) -> StoreUnavailable:
    return StoreUnavailable(f"The catalogue is damaged on disk: {found}.")
