"""How much memory this process may use: the machine's, or what a control group leaves of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


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
