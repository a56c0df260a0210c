"""The lock on a store's directory: one process alone, or several that agreed to share."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from gradstep_server.sessions.errors import StoreUnavailable

_WIDTH = 32


class DirectoryLock:
    """A lock that ends with the process, however it ends."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._shared = shared
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise `StoreUnavailable` naming who has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(
                descriptor, (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
            )
        except BlockingIOError:
            holder = os.read(descriptor, _WIDTH).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StoreUnavailable(self._refusal(holder)) from None
        self._sign(descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _sign(self, descriptor: int) -> None:
        """Write down who has the lock, over what is there: a full disk has no other place."""
        holder = "" if self._shared else str(os.getpid())
        with suppress(OSError):  # it is said to who is refused, and the lock holds without it
            os.pwrite(descriptor, holder.ljust(_WIDTH).encode(), 0)

    def _refusal(self, holder: str) -> str:
        who = f"process {holder}" if holder else "processes that share it"
        return (
            f"{self._path.parent} is in use by {who}; stop it, choose another directory, or start "
            "every process so that they share the store."
        )
