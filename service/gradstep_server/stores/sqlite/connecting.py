"""A connection to a file of the store, on a full disk too.

A connection needs some bytes of the disk for the index of the write-ahead log,
which it shares with others. Where there are none it works *alone*: with an index
in its own memory, and no one else can open the file meanwhile.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import apsw

from gradstep_server.stores.sqlite.failures import is_disk_full
from gradstep_server.stores.sqlite.shared_memory import SharedMemory

_ATTEMPTS = 10
_BUSY_MS = 10_000


class Link:
    """One connection to an existing file."""

    def __init__(self, path: Path) -> None:
        """Prepare to connect; `open` does."""
        self._path = path
        self._memory = SharedMemory(path)
        self.db: apsw.Connection | None = None
        """The connection, also one that failed while it was opened."""

        self.alone = False
        """Whether no one else can open the file."""

    def open(self) -> apsw.Connection:
        """Connect, and read the file for the first time."""
        for _ in range(_ATTEMPTS):
            db = self._connect()
            if not self._memory.is_replaced():
                return db
            self.drop()
        raise apsw.BusyError("other processes open and close it all the time")

    def may_share(self) -> bool:
        """Return whether it is alone, and need not be any more."""
        if not self.alone:
            return False
        try:
            self._memory.hold()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the connection, and put into the file what is in its log."""
        if self.db is not None:
            self._memory.unlock()
            with suppress(apsw.Error):  # what counts is on disk since it was written
                self.db.close()
        self.drop()

    def drop(self) -> None:
        """Close the connection without another write."""
        db, self.db = self.db, None
        if db is not None:
            with suppress(apsw.Error):
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.close(force=True)
        self._memory.release()

    def _connect(self) -> apsw.Connection:
        self.alone = False
        try:
            self._memory.hold()
        except OSError as error:
            self.alone = is_disk_full(error, None)  # anything else SQLite will meet, and tell
        db = self.db = apsw.Connection(os.fspath(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        db.set_busy_timeout(_BUSY_MS)
        if self.alone:
            db.pragma("locking_mode", "exclusive")
        db.pragma("schema_version")
        return db
