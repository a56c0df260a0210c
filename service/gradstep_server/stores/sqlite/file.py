"""One SQLite file: how it is opened, used, and given up after a failure.

The catalogue and every session's log are such files. What this module promises
them: what a file holds when it is opened is on disk; after a failure the
connection is gone, and the next use reads the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from gradstep_server.sessions.errors import Unavailable
from gradstep_server.stores.sqlite.connecting import Link
from gradstep_server.stores.sqlite.disk import unlink
from gradstep_server.stores.sqlite.failures import Failure, is_disk_full
from gradstep_server.stores.sqlite.schema import LARGE_PAGE, Schema, check, migrate

_CACHE_KIB = 1024
"""Of each file that is in use."""

_WAL_BYTES = 16 * 2**20


class FileMissing(Exception):
    """Raised when a log has no file: not yet, no more, or it was lost."""


class SqliteFile:
    """A file with one connection, opened when it is used, and a lock around it."""

    def __init__(self, path: Path, schema: Schema, *, shared: bool) -> None:
        self.path = path
        self._schema = schema
        self._shared = shared
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._pages_are_large = False

    @contextmanager
    def use(self) -> Iterator[apsw.Connection]:
        """Lend the connection to one thread; drop it when SQLite or the disk fails.

        Raises:
            Unavailable: one of its subclasses, instead of any error of SQLite's.
        """
        with self._lock:
            try:
                if self._is_outdated():
                    self._drop()
                yield self._connected()
                self._release()
            except (apsw.Error, OSError, UnicodeDecodeError) as error:
                failure = self._translated(error)
                self._drop()
                raise failure from error
            finally:
                if self._shared and self._link is not None and self._link.alone:
                    self._drop()  # it is the turn of another process

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._link is not None

    def close(self) -> None:
        """Close the connection; a later use opens another."""
        with self._lock:
            link, self._link = self._link, None
            if link is not None:
                link.close()

    def remove(self) -> None:
        """Remove the file."""
        with self._lock:
            self._drop()
            try:
                unlink(self.path)
            except OSError as error:
                raise self._translated(error) from error

    def prepare(self, db: apsw.Connection) -> None:
        """Do what the file needs once per connection; for subclasses."""

    def missing(self) -> Exception:
        """Return what to raise when there is no file."""
        return self._schema.damaged(f"The {self._schema.noun} {self.path.name} is missing.")

    def _is_outdated(self) -> bool:
        """Return whether the connection is to be replaced by another one."""
        if self._link is None:
            return False
        if self._shared and not self.path.exists():
            return True  # another process has deleted the session
        return self._link.may_share()

    def _connected(self) -> apsw.Connection:
        """Return the connection, opened if there is none."""
        if self._link is not None and self._link.db is not None:
            return self._link.db
        if not self.path.exists():
            raise self.missing()
        unfinished = _size(self.path.with_name(self.path.name + "-wal")) > 0
        self._link = Link(self.path)
        try:
            db = self._link.open()
            _configure(db)
            check(db, self._schema, self.path.name)
            self._pages_are_large = int(db.pragma("page_size")) >= LARGE_PAGE
            migrate(db, self._schema)
            with unless_full(db):
                if unfinished:
                    _put_on_disk(db)
                self.prepare(db)
        except Unavailable:
            self._drop()
            raise
        return db

    def _release(self) -> None:
        """Give back memory that holds pages of a body; dozens of files are open at once."""
        if self._pages_are_large and self._link is not None and self._link.db is not None:
            self._link.db.release_memory()

    def _translated(self, error: Failure) -> Unavailable:
        db = None if self._link is None else self._link.db
        return self._schema.translated(error, db)

    def _drop(self) -> None:
        """Give the connection up without another write: its last sync may have failed."""
        link, self._link = self._link, None
        if link is not None:
            link.drop()


def _configure(db: apsw.Connection) -> None:
    db.pragma("cell_size_check", value=True)  # refuse a damaged page, do not misread it
    db.pragma("synchronous", "full")
    db.pragma("cache_size", -_CACHE_KIB)
    db.pragma("journal_size_limit", _WAL_BYTES)
    db.wal_autocheckpoint(_WAL_BYTES // int(db.pragma("page_size")))


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none: another connection may just remove it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _put_on_disk(db: apsw.Connection) -> None:
    """Sync what a killed process, or one whose sync failed, may have left readable only.

    Whoever reads it acknowledges it again.
    """
    with suppress(apsw.BusyError):  # then another connection is doing it
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


@contextmanager
def unless_full(db: apsw.Connection) -> Iterator[None]:
    """Leave undone what the disk has no space for: reads go on without it."""
    try:
        yield
    except apsw.Error as error:
        if not is_disk_full(error, db):
            raise
