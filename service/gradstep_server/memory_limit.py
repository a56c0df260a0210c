"""How much memory this process may use, and that it gives back what it does not."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 4 * 2**20
_LIBRARY = ctypes.CDLL(None)
"""The C library. What follows does nothing where it is not glibc."""

_INTERVAL = 1.0


def hold_less() -> None:
    """Let glibc have few heaps, and return large arrays to the system as soon as they are freed.

    By default it raises the size from which on it does, up to 32 MB, whenever such an array is
    freed, and has a heap for each thread: arrays of some megabytes then leave holes in all.
    """
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(_M_ARENA_MAX, 2)
        _LIBRARY.mallopt(_M_MMAP_THRESHOLD, _LARGE)


async def give_back() -> None:
    """Return what is free in the heaps to the system, again and again.

    By itself glibc returns only what lies behind the last thing in use: under many clients, half
    of the heaps are holes.
    """
    while hasattr(_LIBRARY, "malloc_trim"):
        await asyncio.sleep(_INTERVAL)
        await asyncio.to_thread(_LIBRARY.malloc_trim, _LARGE)


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
