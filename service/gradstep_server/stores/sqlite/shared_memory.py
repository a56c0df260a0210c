"""The file ``-shm`` beside a database: written to its last byte before SQLite maps it.

Through it connections share the index of the write-ahead log. SQLite makes it
longer by one byte in every page. Where a file system's blocks are shorter, the
rest are holes; and a process that writes into a hole that it has mapped, while
the disk is full, is ended by a signal. So the file gets all its blocks here. Its
rules are those of SQLite, which would else begin it anew:

* Every connection holds a read lock on one byte, the dead man's switch. Who finds
  the byte unlocked is the first, and locks it for writing while it empties the
  file. Here it is locked for the open file, not for the process: SQLite, in this
  process too, sees a lock of someone else, and leaves the file as it is.
* A process that closes a file loses its locks on it, SQLite's among them. So this
  process opens the file once for all its connections, and closes it behind the last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REGION = 32 * 1024
"""The bytes by which SQLite makes the file longer."""

_FRAMES = 4062
"""How many pages of the log the first region has room for; each other has room for a few more."""

_SMALLEST_PAGE = 4 * 1024
_SWITCH = 128
_ATTEMPTS = 100
_PAUSE = 0.01

Place = tuple[int, int]
"""Device and number of a file, whatever its name."""


@dataclass(slots=True)
class _Open:
    descriptor: int
    users: int = 0


# Locks are the process's, so what must not be closed is the process's too.
_open_files: dict[Place, _Open] = {}
_guard = threading.Lock()


class SharedMemory:
    """The file beside one database, for one connection: held from before it until after it."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(f"{database.name}-shm")
        self._held: Place | None = None

    def hold(self) -> None:
        """Let the file be whole until `release`, on a system that can lock an open file.

        Raises:
            OSError: it cannot be.
        """
        if sys.platform != "linux":
            return
        with _guard:
            place = _place(self._path)
            if place is None or place not in _open_files:
                place = self._open()
            held = _open_files[place]
            try:
                _attach(held.descriptor, 0 if held.users else self._wanted())
                held.users += 1
            finally:
                _close_unused(place)
            self._held = place

    def unlock(self) -> None:
        """Let SQLite find, as it closes the last connection, that it is the last."""
        with _guard:
            if self._held is not None and _open_files[self._held].users == 1:
                _locked(_open_files[self._held].descriptor, fcntl.F_UNLCK)

    def release(self) -> None:
        """Let go of the file, if it is held."""
        with _guard:
            if self._held is not None:
                _open_files[self._held].users -= 1
                _close_unused(self._held)
                self._held = None

    def is_replaced(self) -> bool:
        """Return whether what is held is another file: a process that was the last removes it."""
        return self._held is not None and _place(self._path) != self._held

    def _open(self) -> Place:
        database = self._database.stat()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, database.st_mode & 0o777)
        found = os.fstat(descriptor)
        if found.st_size == 0:
            with suppress(OSError):  # as SQLite does: who may use the database may use this
                os.fchmod(descriptor, database.st_mode & 0o777)
                os.fchown(descriptor, database.st_uid, database.st_gid)
        place = found.st_dev, found.st_ino
        _open_files[place] = _Open(descriptor)
        return place

    def _wanted(self) -> int:
        """Return how many bytes there should be: for the log as it is, and for its usual growth."""
        log = self._database.with_name(f"{self._database.name}-wal")
        try:
            size = log.stat().st_size
        except FileNotFoundError:
            size = 0
        return REGION * (2 + size // (_FRAMES * _SMALLEST_PAGE))


def _place(path: Path) -> Place | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _close_unused(place: Place) -> None:
    if not _open_files[place].users:
        os.close(_open_files.pop(place).descriptor)


def _attach(descriptor: int, size: int) -> None:
    """Lock the switch for reading; if no one has, first write the file in this size.

    Size 0 says that another connection of this process needs what is written.
    """
    for _ in range(_ATTEMPTS):
        if size and _locked(descriptor, fcntl.F_WRLCK):
            _fill(descriptor, size)
        if _locked(descriptor, fcntl.F_RDLCK):
            return
        time.sleep(_PAUSE)  # another process writes the file just now
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _fill(descriptor: int, size: int) -> None:
    """Write nothing but zeros: SQLite takes that for an index that it has to make."""
    try:
        written = 0
        while written < size:
            written += os.pwrite(descriptor, bytes(size - written), written)
        os.ftruncate(descriptor, size)
    except OSError:
        os.ftruncate(descriptor, 0)  # what there is of it would be of no use to anyone
        _locked(descriptor, fcntl.F_UNLCK)
        raise


def _locked(descriptor: int, kind: int) -> bool:
    """Lock or unlock the switch for this open file; return False if someone else has locked it."""
    wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, _SWITCH, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True
