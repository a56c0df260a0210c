"""One session's log: one SQLite file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import apsw

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt, Unavailable
from gradstep_server.sessions.store import Basis, Body, Entry, Head, Snapshot
from gradstep_server.stores.bodies import check_size
from gradstep_server.stores.sqlite import bodies, snapshots, tables, trimming, unsynced
from gradstep_server.stores.sqlite.file import FileMissing, SqliteFile
from gradstep_server.stores.sqlite.snapshots import SnapshotDraft
from gradstep_server.stores.sqlite.transaction import transaction


class LogFile(SqliteFile):
    """The log in one file. Every method may raise `FileMissing`."""

    def __init__(self, path: Path, *, writer: int, shared: bool, incarnation: str | None) -> None:
        """Name the file.

        Args:
            path: where it is.
            writer: a number that no other store has, not in another process either.
            shared: whether other processes may have the file open.
            incarnation: which one of the medium this is, see `unsynced`.
        """
        super().__init__(path, tables.SCHEMA, shared=shared)
        self._writer = writer
        self._incarnation = incarnation
        self._drafts: set[SnapshotDraft] = set()

    def prepare(self, db: apsw.Connection) -> None:
        """Sweep what a crash left, where no other process can be writing it now.

        Raises:
            SessionCorrupt: the file does not say what belongs to it as a whole.
        """
        rows = db.execute("SELECT closed, trimmed FROM log").fetchall()
        if [tuple(map(type, row)) for row in rows] != [(int, int)]:
            raise SessionCorrupt("The session file is damaged on disk: the table log is lost.")
        if not self._shared:
            snapshots.sweep(db, None, self._drafts)

    def missing(self) -> Exception:
        """Return what to raise when there is no file."""
        return FileMissing()

    def close(self) -> None:
        """Close the file, synced: a machine that ends later takes nothing of it."""
        if self.is_open:
            with suppress(Unavailable, FileMissing):
                self.sync()
        super().close()

    def append(
        self,
        entry: Entry,
        body: Body,
        after: bytes,
        *,
        synced: bool,
        basis: Basis | None = None,
    ) -> bool:
        """Add `entry` if the log stands right before it; return whether it is synced.

        Raises:
            SequenceTaken: the log stands elsewhere, or the basis is not kept any more.
        """
        check_size(body, entry.body_size)
        with self.use() as db:
            _expect(db, entry.seq - 1, after)
            if entry.body_size > bodies.CHUNK:
                snapshots.sweep(db, self._writer, self._drafts)
            staged = bodies.stage(db, body, entry.body_size, self._writer)
            try:
                return self._add(db, entry, staged, after, synced=synced, basis=basis)
            except SequenceTaken:
                bodies.abandon(db, staged.base)
                raise

    def sync(self) -> None:
        """Put on disk what is not there yet."""
        with self.use() as db:
            if self._defers(db):
                with transaction(db):
                    unsynced.forget(db, self._incarnation)

    def doubt(self) -> None:
        """Make the log suspect: it is a copy of one that has gone on."""
        with self.use() as db, transaction(db):
            unsynced.doubt(db)

    def draft_snapshot(self) -> SnapshotDraft:
        """Return a snapshot to be written."""
        return SnapshotDraft(self.use, self._writer, self._drafts)

    def close_log(self, seq: int | None) -> None:
        """Let the log take no more entries, if it stands at `seq` or wherever it stands.

        Raises:
            SequenceTaken: the log stands elsewhere.
        """
        with self.use() as db, transaction(db):
            if not _is_closed(db):
                if seq is not None:
                    _expect(db, seq, None)
                db.execute("UPDATE log SET closed = 1")

    def is_closed(self) -> bool:
        """Return whether the log was closed by a delete."""
        with self.use() as db:
            return _is_closed(db)

    def head(self) -> Head | None:
        """Return where the log stands, or None when it is empty."""
        with self.use() as db:
            found = tables.head(db)
        if found is None:
            return None
        head, unsynced_in = found
        return replace(head, suspect=unsynced_in not in {None, self._incarnation})

    def at(self, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        with self.use() as db:
            return tables.first(db, tables.AT, seq)

    def find(self, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        with self.use() as db:
            return tables.first(db, tables.FIND, kind, n)

    def newest(self, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``."""
        query = tables.NEWEST_STEP if kind == "step" else tables.NEWEST_OTHER
        with self.use() as db:
            return tables.first(db, query, kind, upto)

    def history(self, kind: str, after: int, upto: int, limit: int) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n."""
        with self.use() as db:
            rows = db.execute(tables.HISTORY, (kind, after, upto, limit))
            return [tables.located(row)[0] for row in rows]

    def next(self, after: int) -> tuple[Entry, memoryview] | None:
        """Return the entry right behind `after` with its body, or None at the end."""
        with self.use() as db:
            row = db.execute(tables.NEXT, (after,)).fetchone()
            if row is None:
                return None
            entry, base = tables.located(row)
            if entry.seq != after + 1:
                raise SessionCorrupt(f"Entry {after + 1} is missing.")
            if entry.seq <= tables.trimmed(db):
                raise SessionCorrupt(f"Entry {entry.seq} cannot be replayed: its body was trimmed.")
            return entry, bodies.read(db, base, entry.body_size, f"entry {entry.seq}")

    def snapshots(self) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        with self.use() as db:
            return snapshots.kept(db)

    def snapshot(self, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        with self.use() as db:
            return snapshots.read(db, seq)

    def trim(self, oldest: int, rewound: int | None) -> bool:
        """Drop some of what is older than the snapshot `oldest`, if that is kept.

        Returns:
            Whether there may be more to drop: a step may come between two calls.
        """
        with self.use() as db:
            return trimming.trim(db, oldest, rewound)

    def _add(
        self,
        db: apsw.Connection,
        entry: Entry,
        staged: bodies.Staged,
        after: bytes,
        *,
        synced: bool,
        basis: Basis | None,
    ) -> bool:
        """Commit an entry whose body is staged; return whether it is synced."""
        while True:
            deferred = not synced and self._defers(db)
            with transaction(db, durable=not deferred):
                _expect(db, entry.seq - 1, after)
                if basis is not None and not trimming.keeps(db, basis):
                    raise SequenceTaken(entry.seq - 1)
                if deferred and not self._defers(db):
                    continue  # another process has synced the log since: this begins a burst
                base = bodies.commit(db, staged, entry.body_size)
                db.execute(tables.ADD, tables.row_of(entry, base))
                unsynced.note(db, self._incarnation, synced=synced)
            return not deferred

    def _defers(self, db: apsw.Connection) -> bool:
        """Return whether the log is on record as one that may lose its end."""
        return self._incarnation is not None and unsynced.mark(db) == self._incarnation


def _expect(db: apsw.Connection, seq: int, seal: bytes | None) -> None:
    """Refuse a log that is closed or does not stand at `seq`, with this seal if one is given."""
    row = db.execute("SELECT seq, seal FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    stands = (0, b"") if row is None else row
    if stands[0] != seq or seal not in {None, stands[1]} or _is_closed(db):
        raise SequenceTaken(stands[0])


def _is_closed(db: apsw.Connection) -> bool:
    return bool(db.execute("SELECT closed FROM log").get)
