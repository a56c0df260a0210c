"""Listening on a Unix socket: its file is there as long as someone listens, and no longer."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from gradstep_server.ending import CannotRun

_OWNER_AND_GROUP = 0o660


@contextmanager
def unix_socket(path: Path, backlog: int) -> Iterator[socket.socket]:
    """Listen at a path for the block, open to the user and the group of this process.

    A file that a killed server left there is replaced. The file is removed at the end, also when
    SIGTERM ends the process.

    Raises:
        CannotRun: another server listens there, or the path cannot be used.
    """
    try:
        listening = _bound(path, backlog)
    except OSError as error:
        raise CannotRun(f"cannot listen on {path}: {error.strerror or error}") from error
    made = _identity(path)

    def remove() -> None:
        with suppress(OSError):
            if _identity(path) == made:
                path.unlink()

    def end(number: int, _: FrameType | None) -> None:
        remove()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with listening:
            yield listening
    finally:
        signal.signal(signal.SIGTERM, before)
        remove()


def _bound(path: Path, backlog: int) -> socket.socket:
    """Return a socket that listens at a path, in place of one that nobody listens at."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        # Of two servers that start at once, one must not take the other's file for a dead one.
        fcntl.flock(directory, fcntl.LOCK_EX)
        if _is_dead(path):
            path.unlink()
        listening = socket.socket(socket.AF_UNIX)
        try:
            before = os.umask(0o777 & ~_OWNER_AND_GROUP)
            try:
                listening.bind(str(path))
            finally:
                os.umask(before)
            listening.listen(backlog)
            listening.set_inheritable(True)
        except BaseException:
            listening.close()
            raise
        return listening
    finally:
        os.close(directory)


def _is_dead(path: Path) -> bool:
    """Say whether a path is a socket that nobody listens at."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            # Without blocking: a server whose queue is full is alive.
            asking.settimeout(0)
            asking.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False
    return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
