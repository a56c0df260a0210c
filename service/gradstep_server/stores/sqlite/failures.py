"""What an error of SQLite's or the system's means to a caller."""

from __future__ import annotations

import errno

import apsw

from gradstep_server.sessions.errors import (
    SessionCorrupt,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)

Damaged = type[SessionCorrupt | StoreUnavailable]
"""What to raise when a file is not what it was."""

Failure = apsw.Error | OSError | UnicodeDecodeError
"""What working on a file may raise: text that is no text is a file that is damaged."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAMAGE = {apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS}


def translated(
    error: Failure, db: apsw.Connection | None, noun: str, damaged: Damaged
) -> Unavailable:
    """Return what to raise instead of an error of SQLite's or the system's.

    Args:
        error: what was raised.
        db: the connection that it was raised by, if any.
        noun: what a message calls the file.
        damaged: what to raise when the file is damaged.
    """
    if is_disk_full(error, db):
        return StorageFull("The disk is full; free some space, then send it again.")
    if (
        isinstance(error, apsw.CorruptError | apsw.NotADBError | UnicodeDecodeError)
        or getattr(error, "extendedresult", 0) in _DAMAGE
    ):
        return damaged(f"The {noun} is damaged on disk: {error}.")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreUnavailable(f"The {noun} is in use by another process; send it again.")
    return StoreUnavailable(f"The {noun} could not be read or written: {error}.")


def is_disk_full(error: Failure, db: apsw.Connection | None) -> bool:
    """Return whether there was no space for what was to be written."""
    return isinstance(error, apsw.FullError) or _system_errno(error, db) in _DISK_FULL


def _system_errno(error: Failure, db: apsw.Connection | None) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    if db is not None and isinstance(error, apsw.IOError | apsw.CantOpenError):
        return db.system_errno
    return None
