"""One session's log: one SQLite file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt
from gradstep_server.sessions.store import Body, Entry, Head, Snapshot
from gradstep_server.stores.bodies import check_size
from gradstep_server.stores.sqlite import bodies
from gradstep_server.stores.sqlite.file import Schema, SqliteFile, build, transaction

SCHEMA = Schema(
    noun="session file",
    application_id=0x67735365,  # "gsSe"
    version=1,
    script=bodies.SCRIPT
    + """
CREATE TABLE log (
    closed INTEGER NOT NULL,  -- 1: deleted, takes no more entries
    trimmed INTEGER NOT NULL  -- the last entry whose body is gone
) STRICT;
INSERT INTO log VALUES (0, 0);
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    n INTEGER NOT NULL,
    step INTEGER NOT NULL,
    digest BLOB NOT NULL,
    record BLOB NOT NULL,
    seal BLOB NOT NULL,
    body_size INTEGER NOT NULL,
    created_at REAL NOT NULL,
    body INTEGER NOT NULL  -- the base of its chunks, 0 when it is empty
) STRICT;
CREATE INDEX entries_by_n ON entries (kind, n);
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY,
    record BLOB NOT NULL,
    seal BLOB NOT NULL,
    body_size INTEGER NOT NULL,
    body INTEGER NOT NULL
) STRICT;
""",
    damaged=SessionCorrupt,
)

_LARGE_BODY = 2**20
_TRIM_ENTRIES = 256
_TRIM_BYTES = 64 * 2**20

_HEAD = "SELECT seq, step, created_at FROM entries ORDER BY seq DESC LIMIT 1"
_ENTRY = (
    "SELECT seq, kind, n, step, digest, record, seal, body_size, created_at, body FROM entries "
)
_ADD_ENTRY = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_SNAPSHOT = "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?)"
_SECOND_NEWEST = "SELECT seq FROM snapshots ORDER BY seq DESC LIMIT 1 OFFSET 1"
_AT = _ENTRY + "WHERE seq = ?"
_NEXT = _ENTRY + "WHERE seq > ? ORDER BY seq LIMIT 1"
_FIND = _ENTRY + "WHERE kind = ? AND n = ? ORDER BY seq DESC LIMIT 1"
_HISTORY = _ENTRY + "WHERE kind = ? AND n > ? ORDER BY n, seq LIMIT ?"
_OLD = _ENTRY + "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"


def build_log(path: Path, first_body_size: int) -> None:
    """Create a session's file, in pages that suit the size of its tensors."""
    build(path, SCHEMA, 64 * 1024 if first_body_size >= _LARGE_BODY else 4 * 1024)


class FileMissing(Exception):
    """Raised when a log has no file: not yet, no more, or it was lost."""


class LogFile(SqliteFile):
    """The log in one file. Every method may raise `FileMissing`."""

    def __init__(self, path: Path, *, writer: int, shared: bool) -> None:
        """Name the file.

        Args:
            path: where it is.
            writer: a number that no other store has, not in another process either.
            shared: whether other processes may have the file open.
        """
        super().__init__(path, SCHEMA, shared=shared)
        self._writer = writer

    def prepare(self, db: apsw.Connection) -> None:
        """Sweep what a crash left, where no other process can be writing it now."""
        if not self._shared:
            bodies.sweep(db, None)

    def missing(self) -> Exception:
        """Return what to raise when there is no file."""
        return FileMissing()

    def append(self, entry: Entry, body: Body) -> None:
        """Add `entry` if the log stands right before it, else raise `SequenceTaken`."""
        check_size(body, entry.body_size)
        with self.use() as db:
            _expect(db, entry.seq - 1)
            staged = bodies.stage(db, body, entry.body_size, self._writer)
            try:
                with transaction(db):
                    _expect(db, entry.seq - 1)
                    base = bodies.commit(db, staged, entry.body_size)
                    db.execute(_ADD_ENTRY, _row(entry, base))
            except SequenceTaken:
                bodies.abandon(db, staged)
                raise

    def put_snapshot(self, snapshot: Snapshot, body: Body) -> None:
        """Keep a snapshot, unless there is one of this `seq`."""
        check_size(body, snapshot.body_size)
        with self.use() as db:
            if _has_snapshot(db, snapshot.seq):
                return
            staged = bodies.stage(db, body, snapshot.body_size, self._writer)
            with transaction(db):
                if kept := not _has_snapshot(db, snapshot.seq):
                    base = bodies.commit(db, staged, snapshot.body_size)
                    row = (snapshot.seq, snapshot.record, snapshot.seal, snapshot.body_size, base)
                    db.execute(_ADD_SNAPSHOT, row)
            if not kept:
                bodies.abandon(db, staged)

    def close_log(self, seq: int) -> None:
        """Let the log take no more entries if it stands at `seq`, else raise `SequenceTaken`."""
        with self.use() as db, transaction(db):
            if not _is_closed(db):
                _expect(db, seq)
                db.execute("UPDATE log SET closed = 1")

    def is_closed(self) -> bool:
        """Return whether the log was closed by a delete."""
        with self.use() as db:
            return _is_closed(db)

    def head(self) -> Head | None:
        """Return where the log stands, or None when it is empty."""
        with self.use() as db:
            row = db.execute(_HEAD).fetchone()
            return None if row is None else Head(*row)

    def at(self, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        with self.use() as db:
            return _first(db, _AT, seq)

    def find(self, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        with self.use() as db:
            return _first(db, _FIND, kind, n)

    def history(self, kind: str, after: int, limit: int) -> Sequence[Entry]:
        """Return entries of this kind with ``n > after``, by n."""
        with self.use() as db:
            return [_located(row)[0] for row in db.execute(_HISTORY, (kind, after, limit))]

    def next(self, after: int) -> tuple[Entry, memoryview] | None:
        """Return the entry right behind `after` with its body, or None at the end."""
        with self.use() as db:
            row = db.execute(_NEXT, (after,)).fetchone()
            if row is None:
                return None
            entry, base = _located(row)
            if entry.seq != after + 1:
                raise SessionCorrupt(f"Entry {after + 1} is missing.")
            if entry.seq <= _trimmed(db):
                raise SessionCorrupt(f"Entry {entry.seq} cannot be replayed: its body was trimmed.")
            return entry, bodies.read(db, base, entry.body_size, f"entry {entry.seq}")

    def snapshot(self) -> tuple[Snapshot, memoryview] | None:
        """Return the newest snapshot with its body."""
        query = "SELECT seq, record, seal, body_size, body FROM snapshots ORDER BY seq DESC LIMIT 1"
        with self.use() as db:
            row = db.execute(query).fetchone()
            if row is None:
                return None
            found = Snapshot(*row[:-1])
            return found, bodies.read(db, row[-1], found.body_size, f"snapshot {found.seq}")

    def trim(self) -> bool:
        """Drop some of what is older than the second-newest snapshot.

        Returns:
            Whether there may be more to drop: a step may come between two calls.
        """
        with self.use() as db:
            oldest = db.execute(_SECOND_NEWEST).get
            if oldest is None:
                return False
            return _trim_snapshots(db, oldest) or _trim_entries(db, oldest)


def _expect(db: apsw.Connection, seq: int) -> None:
    row = db.execute(_HEAD).fetchone()
    head = 0 if row is None else row[0]
    if head != seq or _is_closed(db):
        raise SequenceTaken(head)


def _is_closed(db: apsw.Connection) -> bool:
    return bool(db.execute("SELECT closed FROM log").get)


def _trimmed(db: apsw.Connection) -> int:
    return int(db.execute("SELECT trimmed FROM log").get)


def _has_snapshot(db: apsw.Connection, seq: int) -> bool:
    return db.execute("SELECT 1 FROM snapshots WHERE seq = ?", (seq,)).get is not None


def _trim_snapshots(db: apsw.Connection, oldest: int) -> bool:
    """Drop one snapshot from before `oldest`; return whether there was one."""
    query = "SELECT seq, body FROM snapshots WHERE seq < ? LIMIT 1"
    row = db.execute(query, (oldest,)).fetchone()
    if row is None:
        return False
    with transaction(db, durable=False):
        bodies.delete(db, row[1])
        db.execute("DELETE FROM snapshots WHERE seq = ?", (row[0],))
    return True


def _trim_entries(db: apsw.Connection, oldest: int) -> bool:
    """Drop the next few bodies up to entry `oldest`; return whether there were any."""
    trimmed = done = _trimmed(db)
    dropped = 0
    with transaction(db, durable=False):
        for row in db.execute(_OLD, (trimmed, oldest, _TRIM_ENTRIES)).fetchall():
            entry, base = _located(row)
            bodies.delete(db, base)
            done, dropped = entry.seq, dropped + entry.body_size
            if dropped >= _TRIM_BYTES:
                break
        db.execute("UPDATE log SET trimmed = ?", (done,))
    return done > trimmed


def _first(db: apsw.Connection, query: str, *bindings: str | int) -> Entry | None:
    row = db.execute(query, bindings).fetchone()
    return None if row is None else _located(row)[0]


def _located(row: tuple[Any, ...]) -> tuple[Entry, int]:
    """Read a row of `_ENTRY`: the entry, and the base of its body."""
    return Entry(*row[:-1]), row[-1]


def _row(entry: Entry, base: int) -> tuple[int | float | str | bytes, ...]:
    return (
        entry.seq,
        entry.kind,
        entry.n,
        entry.step,
        entry.digest,
        entry.record,
        entry.seal,
        entry.body_size,
        entry.created_at,
        base,
    )
