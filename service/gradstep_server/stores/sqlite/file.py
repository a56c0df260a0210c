"""One SQLite file: how it is built, opened, written, and given up after a failure.

The catalogue and every session's log are such files. What this module promises
them: a file appears complete or not at all; what can be read from it is on
disk; after a failure the connection is gone, and the next use reads the disk.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from gradstep_server.sessions.errors import (
    SessionCorrupt,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)

_BUSY_MS = 10_000
_CACHE_KIB = 4 * 1024
_WAL_BYTES = 16 * 2**20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAMAGE = {apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS}


@dataclass(frozen=True)
class Schema:
    """What kind of file it is."""

    noun: str
    """What a message calls it."""

    application_id: int
    version: int
    script: str
    """The SQL that creates its tables."""

    damaged: type[SessionCorrupt | StoreUnavailable]
    """What to raise when it is not what it was."""


def build(path: Path, schema: Schema, page_size: int) -> None:
    """Create the file with its tables, durably, unless it exists.

    It is built under another name and linked, so that no process ever sees half
    of it, and of two that build it at once both use the first one's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.new")
    db: apsw.Connection | None = None
    try:
        db = apsw.Connection(os.fspath(draft))
        db.pragma("synchronous", "off")  # synced below, once
        db.pragma("page_size", page_size)
        db.execute(schema.script)
        db.pragma("application_id", schema.application_id)
        db.pragma("user_version", schema.version)
        db.pragma("journal_mode", "wal")
        db.close()
        fsync(draft)
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        fsync(path.parent)
        fsync(path.parent.parent)
    except (apsw.Error, OSError) as error:
        raise _failure(error, db, schema) from error
    finally:
        if db is not None:
            db.close(force=True)
        unlink(draft)


def unlink(path: Path) -> None:
    """Remove the file and what SQLite keeps beside it, as far as they exist."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def transaction(db: apsw.Connection, *, durable: bool = True) -> Iterator[None]:
    """Write in one transaction; a durable one is on disk when this ends.

    One that is not durable is there whole or not at all, and no later than the
    next durable one of the same file.
    """
    db.pragma("synchronous", "full" if durable else "normal")
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


class SqliteFile:
    """A file with one connection, opened when it is used, and a lock around it."""

    def __init__(self, path: Path, schema: Schema, *, shared: bool) -> None:
        self.path = path
        self._schema = schema
        self._shared = shared
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None

    @contextmanager
    def use(self) -> Iterator[apsw.Connection]:
        """Lend the connection to one thread; drop it when SQLite or the disk fails.

        Raises:
            Unavailable: one of its subclasses, instead of any error of SQLite's.
        """
        with self._lock:
            try:
                if self._shared and self._db is not None and not self.path.exists():
                    self._drop()  # another process has deleted the session
                yield self._connect() if self._db is None else self._db
            except (apsw.Error, OSError) as error:
                failure = _failure(error, self._db, self._schema)
                self._drop()
                raise failure from error

    def close(self) -> None:
        """Close the connection; a later use opens another."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                with suppress(apsw.Error):  # what counts is on disk since it was written
                    db.close()

    def remove(self) -> None:
        """Remove the file."""
        with self._lock:
            self._drop()
            try:
                unlink(self.path)
            except OSError as error:
                raise _failure(error, None, self._schema) from error

    def prepare(self, db: apsw.Connection) -> None:
        """Do what the file needs once per connection; for subclasses."""

    def missing(self) -> Exception:
        """Return what to raise when there is no file."""
        return self._schema.damaged(f"The {self._schema.noun} {self.path.name} is missing.")

    def _connect(self) -> apsw.Connection:
        if not self.path.exists():
            raise self.missing()
        wal = self.path.with_name(self.path.name + "-wal")
        unfinished = wal.exists() and wal.stat().st_size > 0
        db = self._db = apsw.Connection(os.fspath(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            self._configure(db)
            with _unless_full(db):
                if unfinished:
                    _put_on_disk(db)
                self.prepare(db)
        except Unavailable:
            self._drop()
            raise
        return db

    def _configure(self, db: apsw.Connection) -> None:
        db.set_busy_timeout(_BUSY_MS)
        self._check_schema(db)
        db.pragma("cell_size_check", value=True)  # refuse a damaged page, do not misread it
        db.pragma("synchronous", "full")
        db.pragma("cache_size", -_CACHE_KIB)
        db.pragma("journal_size_limit", _WAL_BYTES)
        db.wal_autocheckpoint(_WAL_BYTES // int(db.pragma("page_size")))

    def _check_schema(self, db: apsw.Connection) -> None:
        schema = self._schema
        if db.pragma("application_id") != schema.application_id:
            raise schema.damaged(f"{self.path.name} is not a gradstep {schema.noun}.")
        version = db.pragma("user_version")
        if version > schema.version:
            raise StoreUnavailable(
                f"The {schema.noun} {self.path.name} has format {version}, and this version of "
                f"gradstep knows {schema.version}; run a newer gradstep."
            )
        if version < schema.version:
            raise schema.damaged(f"The {schema.noun} {self.path.name} has no valid format number.")

    def _drop(self) -> None:
        """Give the connection up without another write: its last sync may have failed."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(apsw.Error):
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.close(force=True)


def _put_on_disk(db: apsw.Connection) -> None:
    """Sync what a killed process, or one whose sync failed, may have left readable only.

    Whoever reads it acknowledges it again.
    """
    with suppress(apsw.BusyError):  # then another connection is doing it
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


@contextmanager
def _unless_full(db: apsw.Connection) -> Iterator[None]:
    """Leave undone what the disk has no space for: reads go on without it."""
    try:
        yield
    except apsw.Error as error:
        if not _is_disk_full(error, db):
            raise


def _is_disk_full(error: apsw.Error | OSError, db: apsw.Connection | None) -> bool:
    return isinstance(error, apsw.FullError) or _system_errno(error, db) in _DISK_FULL


def _failure(
    error: apsw.Error | OSError, db: apsw.Connection | None, schema: Schema
) -> Unavailable:
    """Say what an error of SQLite's or the system's means to a caller."""
    if _is_disk_full(error, db):
        return StorageFull("The disk is full; free some space, then send it again.")
    if (
        isinstance(error, apsw.CorruptError | apsw.NotADBError)
        or getattr(error, "extendedresult", 0) in _DAMAGE
    ):
        return schema.damaged(f"The {schema.noun} is damaged on disk: {error}.")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreUnavailable(f"The {schema.noun} is in use by another process; send it again.")
    return StoreUnavailable(f"The {schema.noun} could not be read or written: {error}.")


def _system_errno(error: apsw.Error | OSError, db: apsw.Connection | None) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    if db is not None and isinstance(error, apsw.IOError | apsw.CantOpenError):
        return db.system_errno
    return None
