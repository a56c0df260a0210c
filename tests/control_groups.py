"""Control groups of the kernel, in which a process has less memory than the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def limited_memory(name: str, nbytes: int) -> Iterator[Path | None]:
    """Make a group; yield its folder, or None where this user cannot make one.

    A process joins by writing its number to ``cgroup.procs`` there.
    """
    group = _made(name, nbytes)
    yield group
    if group is not None:
        _remove(group)


def _made(name: str, nbytes: int) -> Path | None:
    for root, limit in ((_V1, "memory.limit_in_bytes"), (_V2, "memory.max")):
        group = root / name
        try:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(nbytes))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def _remove(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:  # its last process has not quite gone
            time.sleep(0.05)
        else:
            return
