"""A disk under SQLite that fails on command and forgets what was not synced."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import apsw


class FailingDisk(apsw.VFS):
    """While it is entered, SQLite's files are on this disk.

    It keeps what every write since a file's last sync replaced, so that
    `lose_power` can put it back.
    """

    def __init__(self) -> None:
        super().__init__("failing-disk", "unix", makedefault=True)
        self.writes_left: int | None = None
        """After so many writes the power is off: no write and no sync succeeds."""
        self.room: int | None = None
        """How many bytes files may still grow by."""
        self.syncs_fail = False
        self.syncs = 0
        self._replaced: defaultdict[Path, list[tuple[int, bytes, int]]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._ignore_own
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.unraisablehook = self._hook
        self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        return _File(self, name, flags)

    def lose_power(self, random: Random) -> None:
        """Undo, file by file, a random number of the last writes that were not synced."""
        for path, replaced in self._replaced.items():
            if path.exists():  # a draft is synced and renamed by the store, not by SQLite
                _undo(path, replaced[random.randint(0, len(replaced)) :])

    def spend_room(self, growth: int) -> None:
        if self.room is not None and growth > 0:
            if growth > self.room:
                raise apsw.FullError("no space")
            self.room -= growth

    def spend_write(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
        self._require_power()

    def remember(self, path: Path, offset: int, length: int) -> None:
        with path.open("rb") as file:
            file.seek(offset)
            self._replaced[path].append((offset, file.read(length), path.stat().st_size))

    def sync(self, path: Path) -> None:
        self.syncs += 1
        self._require_power()
        if self.syncs_fail:
            raise apsw.IOError("the disk did not sync")
        self._replaced[path].clear()

    def _ignore_own(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Pass over failures that SQLite has no one to tell: a checkpoint after a commit."""
        if not isinstance(unraisable.exc_value, apsw.Error):
            self._hook(unraisable)

    def _require_power(self) -> None:
        if self.writes_left is not None and self.writes_left < 0:
            raise apsw.IOError("the power is off")


class _File(apsw.VFSFile):
    def __init__(
        self, disk: FailingDisk, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("unix", name, flags)
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._path = Path(filename or "")

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.spend_write()
        self._disk.spend_room(offset + len(data) - self._path.stat().st_size)
        self._disk.remember(self._path, offset, len(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.spend_write()
        self._disk.remember(self._path, newsize, self._path.stat().st_size)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.sync(self._path)
        super().xSync(flags)


def _undo(path: Path, replaced: list[tuple[int, bytes, int]]) -> None:
    with path.open("r+b") as file:
        for offset, content, size in reversed(replaced):
            file.seek(offset)
            file.write(content)
            file.truncate(size)
