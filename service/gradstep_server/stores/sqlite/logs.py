"""The open session files: a few of them, the least recently used closed first."""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradstep_server.stores.sqlite.disk import unlink
from gradstep_server.stores.sqlite.log import LogFile

_SUFFIX = ".sqlite"
_KEY = "[0-9a-f]{2,64}"


def path_of(folder: Path, key: str) -> Path:
    """Return where the file of this key is, in one of 256 folders."""
    if not re.fullmatch(_KEY, key):
        raise ValueError(f"{key!r} is no key of a log")
    return folder / key[:2] / f"{key}{_SUFFIX}"


@dataclass(slots=True)
class _Held:
    log: LogFile
    users: int = 0


class OpenLogs:
    """Lends session files by key, and closes idle ones beyond a limit."""

    def __init__(self, folder: Path, *, shared: bool, limit: int, incarnation: str | None) -> None:
        self._folder = folder
        self._shared = shared
        self._incarnation = incarnation
        self._writer = secrets.randbits(62)
        self._limit = limit
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._closing = 0
        self._lock = threading.Lock()

    def path(self, key: str) -> Path:
        """Return where the file of this key is."""
        return path_of(self._folder, key)

    def holds(self, key: str) -> bool:
        """Return whether the file is open, or was when it was last used."""
        return key in self._held

    @contextmanager
    def use(self, key: str) -> Iterator[LogFile]:
        """Lend the file of this key; while it is lent it stays open."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = _Held(self._log(key))
            self._held.move_to_end(key)
            held.users += 1
        try:
            yield held.log
        finally:
            with self._lock:
                held.users -= 1
            self._close_surplus()

    def remove(self, key: str) -> None:
        """Remove the file of this key, if there is one."""
        with self.use(key) as log:
            log.remove()
            self.forget(key)

    def forget(self, key: str) -> None:
        """Hold the file no longer: it is gone."""
        with self._lock:
            self._held.pop(key, None)

    def sweep(self, wanted: set[str]) -> None:
        """Remove every file that belongs to no key in `wanted`."""
        names = {f"{key}{_SUFFIX}" for key in wanted}
        for path in self._folder.glob("??/*"):
            if path.name.removesuffix("-wal").removesuffix("-shm") not in names:
                unlink(path)

    def keys(self) -> set[str]:
        """Return the keys of all session files."""
        found = (path.stem for path in self._folder.glob(f"??/*{_SUFFIX}"))
        return {key for key in found if re.fullmatch(_KEY, key)}

    def is_empty(self) -> bool:
        """Return whether there is no session file at all."""
        return next(self._folder.glob(f"??/*{_SUFFIX}"), None) is None

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            for held in self._held.values():
                held.log.close()
            self._held.clear()

    def _log(self, key: str) -> LogFile:
        return LogFile(
            self.path(key),
            writer=self._writer,
            shared=self._shared,
            incarnation=self._incarnation,
        )

    def _close_surplus(self) -> None:
        """Close idle files, oldest first, until no more than the limit are open."""
        while surplus := self._lend_surplus():
            key, held = surplus
            held.log.close()
            with self._lock:
                self._closing -= 1
                held.users -= 1
                gone = not held.users and not held.log.is_open
                if gone and self._held.get(key) is held:
                    del self._held[key]

    def _lend_surplus(self) -> tuple[str, _Held] | None:
        """Lend the oldest idle file to who closes it, if there are too many.

        It is held until it is closed: who wants it meanwhile waits and opens it again.
        With a second connection to the same file, the two that close at the same time
        would each leave the write-ahead file to the other.
        """
        with self._lock:
            if len(self._held) - self._closing <= self._limit:
                return None
            for key, held in self._held.items():
                if not held.users:
                    held.users += 1
                    self._closing += 1
                    return key, held
            return None
