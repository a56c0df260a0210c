"""How much memory this process may use, and that it gives back what it does not."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 4 * 2**20


def give_back_what_is_freed() -> None:
    """Let glibc, where that is the C library, return freed memory to the system.

    By default it raises the size from which on memory is returned at once, up to 32 MB, whenever
    such memory is freed, and has a heap for each thread: arrays of some megabytes then leave
    holes in all of them, which soon are more than what is in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def memory_limit(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return the bytes.

    Args:
        groups: where control groups are mounted, of version 1 or 2.
        own: the file that names those of this process.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(groups, own)])


def _limits(groups: Path, own: Path) -> Iterator[int]:
    for path in _files(groups, own):
        try:
            limit = path.read_text().strip()
        except OSError:
            continue
        if limit.isdecimal():  # else "max"
            yield int(limit)


def _files(groups: Path, own: Path) -> Iterator[Path]:
    """Yield where a limit may stand: in the process's group, and in what a container sees as all.

    What stands in /proc may be the path outside the container, where nothing is.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in ("0::/", "0:memory:/", *lines):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield groups / path.lstrip("/") / "memory.max"
        elif "memory" in controllers.split(","):
            yield groups / "memory" / path.lstrip("/") / "memory.limit_in_bytes"
