"""A disk under SQLite that fails on command and forgets what was not synced."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import NamedTuple, Self

import apsw

_SECTOR = 512
"""Bytes that a disk writes whole or not at all."""


class _Change(NamedTuple):
    """One write, or one truncation, that was not synced."""

    offset: int
    replaced: bytes
    size: int
    """The file's size before."""

    written: bytes | None
    """What was written; None for a truncation."""


class FailingDisk(apsw.VFS):
    """While it is entered, SQLite's files are on this disk.

    It keeps every change since a file's last sync, so that `lose_power` can
    decide which of them reached the disk.
    """

    def __init__(self) -> None:
        super().__init__("failing-disk", "unix", makedefault=True)
        self.writes_left: int | None = None
        """After so many writes the power is off: no write and no sync succeeds."""
        self.room: int | None = None
        """How many bytes files may still grow by."""
        self.syncs_fail = False
        self.syncs_lie = False
        """Whether a sync says that it succeeded and does nothing."""

        self.syncs = 0
        self._changes: defaultdict[Path, list[_Change]] = defaultdict(list)
        self._deleted: dict[Path, bytes] = {}

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

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        path = Path(filename)
        with suppress(FileNotFoundError):
            self._deleted[path] = path.read_bytes()
        super().xDelete(filename, syncdir)
        self._changes.pop(path, None)
        if syncdir:
            self._deleted.pop(path, None)

    def lose_power(self, random: Random) -> int:
        """Let any of the changes that were not synced be lost, torn, or kept, file by file.

        A disk keeps no order between two syncs, neither in a file nor between
        files. A file whose deletion was not synced may be there again.

        Returns:
            How many changes are lost or torn.
        """
        lost = 0
        for path, changes in self._changes.items():
            if path.exists():  # a draft is synced and renamed by the store, not by SQLite
                lost += _forget(path, changes, random)
        for path, content in self._deleted.items():
            if path.parent.exists() and not path.exists() and random.random() < 0.5:
                path.write_bytes(content)
        return lost

    def spend_room(self, growth: int) -> None:
        if self.room is not None and growth > 0:
            if growth > self.room:
                raise apsw.FullError("no space")
            self.room -= growth

    def spend_write(self) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
        self._require_power()

    def remember(self, path: Path, offset: int, length: int, written: bytes | None) -> None:
        with path.open("rb") as file:
            file.seek(offset)
            change = _Change(offset, file.read(length), path.stat().st_size, written)
        self._changes[path].append(change)

    def sync(self, path: Path) -> None:
        self.syncs += 1
        self._require_power()
        if self.syncs_fail:
            raise apsw.IOError("the disk did not sync")
        if not self.syncs_lie:
            self._changes[path].clear()

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
        self._path = Path(filename) if filename else None
        """None for a temporary file, which no one looks for after a power loss."""

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.spend_write()
        if self._path is not None:
            self._disk.spend_room(offset + len(data) - self._path.stat().st_size)
            self._disk.remember(self._path, offset, len(data), data)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.spend_write()
        if self._path is not None:
            self._disk.remember(self._path, newsize, self._path.stat().st_size, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        if self._path is not None:
            self._disk.sync(self._path)
        super().xSync(flags)


def _forget(path: Path, changes: Sequence[_Change], random: Random) -> int:
    """Put back what was synced last, then make some of the changes again, perhaps by half.

    Returns how many were not made again as they were.
    """
    survival = random.choice((0.0, 0.5, 0.9, 1.0))
    whole = 0
    with path.open("r+b") as file:
        for change in reversed(changes):
            file.seek(change.offset)
            file.write(change.replaced)
            file.truncate(change.size)
        for change in changes:
            if random.random() >= survival:
                continue
            if change.written is None:
                file.truncate(change.offset)
                whole += 1
                continue
            begin, end = _torn(change.offset, len(change.written), random)
            file.seek(change.offset + begin)
            file.write(change.written[begin:end])
            whole += end - begin == len(change.written)
    return len(changes) - whole


def _torn(offset: int, length: int, random: Random) -> tuple[int, int]:
    """Return which bytes of a write reach the disk: all, or those before or behind a sector."""
    first = -offset % _SECTOR
    cuts = range(first or _SECTOR, length, _SECTOR)
    if not cuts or random.random() < 0.5:
        return 0, length
    cut = random.choice(cuts)
    return random.choice(((0, cut), (cut, length)))
