"""Snapshots inside a session's file: written piece by piece, kept whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import apsw

from gradstep_server.sessions.errors import SessionCorrupt, Unavailable
from gradstep_server.sessions.store import Snapshot
from gradstep_server.stores.sqlite import bodies, tables
from gradstep_server.stores.sqlite.file import FileMissing
from gradstep_server.stores.sqlite.transaction import transaction

_ADD = "INSERT INTO snapshots (seq, record, seal, body_size, body, base) VALUES (?, ?, ?, ?, ?, ?)"
_KEPT = "SELECT seq, base FROM snapshots ORDER BY seq"
_READ = "SELECT base, record, seal, body_size, body FROM snapshots WHERE seq = ?"
_TYPES = (int, bytes, bytes, int, int)
"""What the columns of `_READ` hold."""


class SnapshotDraft:
    """A snapshot on its way into a file that others write meanwhile.

    If the session is deleted, nothing is kept.
    """

    def __init__(
        self,
        use: Callable[[], AbstractContextManager[apsw.Connection]],
        writer: int,
        drafts: set[SnapshotDraft],
    ) -> None:
        """Begin a draft.

        Args:
            use: lends the file's connection.
            writer: who lists the body as pending.
            drafts: those under way, this one with them while it has rows in the file.
        """
        self._use = use
        self._writer = writer
        self._drafts = drafts
        self._rows = 0
        self.base = bodies.EMPTY
        """Where its rows are, while they are pending."""

    def add(self, chunk: bodies.Chunk) -> None:
        """Write the next row."""
        with suppress(FileMissing), self._use() as db:
            if self._rows == 0:
                sweep(db, self._writer, self._drafts)
                self.base = bodies.begin(db, chunk, self._writer)
                self._drafts.add(self)
            else:
                bodies.extend(db, self.base, self._rows, chunk)
            self._rows += 1

    def commit(self, snapshot: Snapshot, rest: bodies.Chunk) -> None:
        """Keep the snapshot, `rest` being the end of its body.

        It is not kept if there is one of its `seq`, or if what follows it was trimmed.
        """
        if rest and self._rows:
            self.add(rest)
        staged = bodies.Staged(self.base, rest if rest and not self._rows else None)
        with suppress(FileMissing), self._use() as db:
            with transaction(db):
                is_of_use = tables.trimmed(db) <= snapshot.base
                is_kept = is_of_use and base_of(db, snapshot.seq) is None
                if is_kept:
                    body = bodies.commit(db, staged, snapshot.body_size)
                    row = (snapshot.seq, snapshot.record, snapshot.seal, snapshot.body_size, body)
                    db.execute(_ADD, (*row, snapshot.base))
            if is_kept:
                self.base = bodies.EMPTY

    def abandon(self) -> None:
        """Remove what was written and not committed, or leave that to the next sweep."""
        if self.base != bodies.EMPTY:
            with suppress(Unavailable, FileMissing), self._use() as db:
                bodies.abandon(db, self.base)
        self._drafts.discard(self)


def sweep(db: apsw.Connection, writer: int | None, drafts: set[SnapshotDraft]) -> None:
    """Remove bodies that a failure has left, of this writer or of all, but for the drafts'."""
    live = {draft.base for draft in tuple(drafts)}  # a copy: other threads may end theirs
    bodies.sweep(db, writer, live)


def kept(db: apsw.Connection) -> Sequence[tuple[int, int]]:
    """Return `seq` and `base` of the snapshots that are kept, oldest first.

    Raises:
        SessionCorrupt: a base is none.
    """
    rows: list[Any] = db.execute(_KEPT).fetchall()
    for seq, base in rows:
        if not isinstance(base, int):
            raise _damaged(seq)
    return rows


def read(db: apsw.Connection, seq: int) -> tuple[Snapshot, memoryview] | None:
    """Return the snapshot of this `seq` with its body.

    Raises:
        SessionCorrupt: it is not complete, or a column holds what was never written into it.
    """
    row: Any = db.execute(_READ, (seq,)).fetchone()
    if row is None:
        return None
    if tuple(map(type, row)) != _TYPES:
        raise _damaged(seq)
    *fields, body = row
    found = Snapshot(seq, *fields)
    return found, bodies.read(db, body, found.body_size, f"snapshot {seq}")


def base_of(db: apsw.Connection, seq: int) -> int | None:
    """Return the `base` of the snapshot of this `seq`, or None if it is not kept."""
    found: int | None = db.execute("SELECT base FROM snapshots WHERE seq = ?", (seq,)).get
    return found


def _damaged(seq: int) -> SessionCorrupt:
    return SessionCorrupt(f"The snapshot at entry {seq} is damaged.")
