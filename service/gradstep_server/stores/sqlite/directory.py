"""A directory of sessions: the catalogue and the logs, kept consistent through crashes.

The catalogue decides which sessions exist. A session's file is complete before
its row is committed, and is removed only after the row says that the session is
deleted, so a crash leaves at most a file that no row asks for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gradstep_server.sessions.errors import (
    IdTaken,
    SequenceTaken,
    SessionCorrupt,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)
from gradstep_server.sessions.store import (
    Basis,
    Body,
    Entry,
    Head,
    Header,
    Snapshot,
    Usage,
    by_tenant,
)
from gradstep_server.stores.sqlite.catalogue import Catalogue, Row
from gradstep_server.stores.sqlite.disk import size
from gradstep_server.stores.sqlite.file import FileMissing
from gradstep_server.stores.sqlite.log import LogFile
from gradstep_server.stores.sqlite.logs import OpenLogs
from gradstep_server.stores.sqlite.reserve import Reserve
from gradstep_server.stores.sqlite.schema import NewerFormat
from gradstep_server.stores.sqlite.snapshots import SnapshotDraft
from gradstep_server.stores.sqlite.tables import build_log

_log = logging.getLogger(__name__)

T = TypeVar("T")

CATALOGUE = "catalogue.sqlite"
SESSIONS = "sessions"
"""What the catalogue and the folder of the session files are called."""

_SCAN = 100


class SqliteDirectory:
    """All sessions of one directory. Its methods block."""

    def __init__(
        self, path: Path, *, shared: bool, open_files: int, incarnation: str | None
    ) -> None:
        self._path = path
        self._shared = shared
        self._catalogue = Catalogue(path / CATALOGUE, shared=shared)
        self._reserve = Reserve(path / "reserve")
        self._logs = OpenLogs(
            path / SESSIONS, shared=shared, limit=open_files, incarnation=incarnation
        )

    def open(self) -> None:
        """Create what is missing and sweep what crashes left."""
        if not self._catalogue.path.exists() and not self._logs.is_empty():
            raise StoreUnavailable(
                f"{self._path} holds sessions and no catalogue.sqlite; restore that file from a "
                "backup, or choose another directory."
            )
        try:
            self._open()
        except StorageFull:  # to read what is there takes a little space too
            with self._reserve.lent():
                self._open()
        self._reserve.fill()
        try:
            self._catalogue.probe()
        except Unavailable as error:
            _log.warning("%s can be read, and not written: %s", self._path, error.detail)

    def _open(self) -> None:
        self._catalogue.build()
        self._catalogue.verify()
        written = self._catalogue.written_keys()
        if not self._shared:
            self._refuse_strangers(self._catalogue.keys())
            self._logs.sweep(written)

    def _refuse_strangers(self, known: set[str]) -> None:
        """Raise if there is a log that the catalogue has never heard of, and that was stepped.

        A crash leaves at most the file of a session that was not created yet: of
        one entry. Anything else belongs to another catalogue.
        """
        for key in self._logs.keys() - known:
            with suppress(SessionCorrupt), self._logs.use(key) as log:
                head = log.head()
                if head is not None and head.seq > 1:
                    raise StoreUnavailable(
                        f"{log.path} holds a session that catalogue.sqlite does not know; restore "
                        "the catalogue that belongs to it, or move that file away."
                    )
        self._logs.close()

    def close(self) -> None:
        """Close all files."""
        self._logs.close()
        self._catalogue.close()

    def check(self) -> None:
        """Write and read something."""
        self._catalogue.probe()

    def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session; the commit of its row is what creates it."""
        taken = self._catalogue.find(header.tenant, header.id)
        if taken is not None:
            raise IdTaken(taken.header)
        if entry is not None:
            self._write_first(header.key, entry, body)
        try:
            self._catalogue.add(header, written=entry is not None)
        except IdTaken:
            self._logs.remove(header.key)
            raise

    def load(self, tenant: str, session_id: str) -> Header | None:
        """Return the header, also that of a deleted session."""
        row = self._catalogue.find(tenant, session_id)
        if row is not None and self._is_deleted(row):
            row = self._catalogue.find(tenant, session_id)
        return None if row is None else row.header

    def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions that are not deleted by id, from behind `after`."""
        found: list[tuple[Header, Head]] = []
        while rows := self._catalogue.page(tenant, after, limit - len(found)):
            after = rows[-1].header.id
            found += ((header, head or _empty(header)) for header, head in self._heads(rows))
        return found

    def usage(self, *, sizes: bool) -> Mapping[str, Usage]:
        """Return what the sessions' files take, by tenant."""
        return by_tenant(
            (tenant, Usage(1, size(self._logs.path(key)) if sizes else 0))
            for tenant, key in self._catalogue.owners()
        )

    def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions not updated since `moment`, damaged ones left out."""
        found: list[tuple[Header, Head]] = []
        after = ""
        while rows := self._catalogue.created_before(moment, after, _SCAN):
            after = rows[-1].header.key
            for header, head in self._heads(rows):
                if head is not None and head.updated_at < moment:
                    found.append((header, head))
            if len(found) >= limit:
                break
        return found[:limit]

    def delete(self, header: Header, seq: int | None) -> None:
        """Delete the session if its log stands at `seq`, or wherever it stands."""
        try:
            self._delete(header, seq)
        except StorageFull:
            with self._reserve.lent():
                self._delete(header, seq)

    def head(self, key: str) -> Head:
        """Return where the log stands."""
        head = self._ask(key, LogFile.head, None)
        if head is None:
            row = self._catalogue.of_key(key)
            head = Head(0, 0, 0.0) if row is None else _empty(row.header)
        return head

    def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        after: bytes,
        *,
        synced: bool,
        basis: Basis | None = None,
    ) -> bool:
        """Add `entry` if the log stands right before it; return whether it is synced."""
        if not self._has_file(key):
            self._start(key, entry, after)

        def add(log: LogFile) -> bool | None:
            return log.append(entry, body, after, synced=synced, basis=basis)

        try:
            added = self._ask(key, add, None)
        except SequenceTaken:
            self._refuse_if_closed(key)
            raise
        if added is None:
            raise SequenceTaken(0)
        return added

    def sync(self, key: str) -> None:
        """Put on disk what is not there yet."""
        self._ask(key, LogFile.sync, None)

    def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        return self._ask(key, lambda log: log.find(kind, n), None)

    def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``."""
        return self._ask(key, lambda log: log.newest(kind, upto), None)

    def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        return self._ask(key, lambda log: log.at(seq), None)

    def history(self, key: str, kind: str, after: int, upto: int, limit: int) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n."""
        return self._ask(key, lambda log: log.history(kind, after, upto, limit), ())

    def next(self, key: str, after: int) -> tuple[Entry, memoryview] | None:
        """Return the entry right behind `after` with its body, or None at the end."""
        return self._ask(key, lambda log: log.next(after), None)

    @contextmanager
    def snapshot_draft(self, key: str) -> Iterator[SnapshotDraft | None]:
        """Lend a snapshot to be written; what is not committed in the block is removed.

        None stands for one of a log that has no file.
        """
        if not self._has_file(key):
            yield None
            return
        with self._logs.use(key) as log:  # held open: to open it anew sweeps what is pending
            draft = log.draft_snapshot()
            try:
                yield draft
            finally:
                draft.abandon()

    def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        return self._ask(key, LogFile.snapshots, ())

    def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        return self._ask(key, lambda log: log.snapshot(seq), None)

    def trim(self, key: str, oldest: int, rewound: int | None) -> bool:
        """Drop some of what is old; return whether there may be more."""
        return self._ask(key, lambda log: log.trim(oldest, rewound), default=False)

    def _delete(self, header: Header, seq: int | None) -> None:
        """Close the log, then mark the row, then remove the file; a retry goes on from there.

        Without `seq` the log is closed if that can be done: what decides is the row.
        """
        if self._catalogue.begin_delete(header.key, seq):
            try:
                self._ask(header.key, lambda log: log.close_log(seq), None)
            except Unavailable:
                if seq is not None:
                    raise
            self._finish_delete(header.key)
        else:
            self._logs.remove(header.key)

    def _ask(self, key: str, question: Callable[[LogFile], T], default: T) -> T:
        """Ask the log; one that is deleted or was never written answers `default`."""
        if not self._has_file(key):
            return default
        try:
            with self._logs.use(key) as log:
                return question(log)
        except FileMissing:
            self._logs.forget(key)
            if self._has_file(key):
                raise SessionCorrupt("The session's file is missing from the store.") from None
            return default

    def _has_file(self, key: str) -> bool:
        if self._logs.holds(key):
            return True
        row = self._catalogue.of_key(key)
        return row is not None and row.written

    def _write_first(self, key: str, entry: Entry, body: Body) -> None:
        """Write the file of a session that has no row yet."""
        try:
            build_log(self._logs.path(key), entry.body_size)
            with self._logs.use(key) as log:
                log.append(entry, body, b"", synced=True)
        except BaseException:
            with suppress(Unavailable):
                self._logs.remove(key)
            raise

    def _start(self, key: str, entry: Entry, after: bytes) -> None:
        """Make the file of a session that was created without an entry."""
        if entry.seq != 1 or after or self._catalogue.of_key(key) is None:
            raise SequenceTaken(0)
        build_log(self._logs.path(key), entry.body_size)
        if not self._catalogue.mark_written(key):
            self._logs.remove(key)
            raise SequenceTaken(0)

    def _heads(self, rows: Sequence[Row]) -> Iterator[tuple[Header, Head | None]]:
        """Yield the sessions that are not deleted; None as the head of a damaged one."""
        for row in rows:
            try:
                if self._is_deleted(row):
                    continue
                head = self.head(row.header.key)
            except (SessionCorrupt, NewerFormat):
                yield row.header, None
            else:
                yield row.header, head

    def _is_deleted(self, row: Row) -> bool:
        """Return whether the session is deleted, completing a delete that a crash cut off."""
        if row.header.deleted_at is not None:
            return True
        if not row.closing or not self._is_closed(row.header.key):
            return False
        try:
            self._finish_delete(row.header.key)
        except StorageFull:
            with self._reserve.lent():
                self._finish_delete(row.header.key)
        return True

    def _finish_delete(self, key: str) -> None:
        self._catalogue.finish_delete(key)
        self._logs.remove(key)

    def _refuse_if_closed(self, key: str) -> None:
        """Raise if a log takes no entries, and no delete of its session was ever begun."""
        if self._ask(key, LogFile.is_closed, default=False):
            row = self._catalogue.of_key(key)
            if row is not None and not row.closing:
                raise SessionCorrupt("The session file is damaged on disk: it says it is closed.")

    def _is_closed(self, key: str) -> bool:
        try:
            return self._ask(key, LogFile.is_closed, default=True)
        except SessionCorrupt:  # whoever asks the log for more is told
            return False


def _empty(header: Header) -> Head:
    return Head(seq=0, step=0, updated_at=header.created_at)
