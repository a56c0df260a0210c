"""Several workers, one page: each keeps its metrics in files that all can read.

This is `prometheus_client`'s own multiprocess mode, which finds the directory in
the environment when a worker imports it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LIVE = re.compile(r"gauge_live[a-z]+_(\d+)\.db")


@contextmanager
def shared() -> Iterator[None]:
    """Lend the workers that are started in the block a directory for their metrics."""
    with tempfile.TemporaryDirectory(prefix="gradstep-metrics-") as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


def directory() -> Path | None:
    """Return the directory that workers share, None where there is only one process."""
    folder = os.environ.get(_VARIABLE)
    return Path(folder) if folder else None


def forget_dead(folder: Path) -> None:
    """Leave out what workers that have ended had in memory; what they have counted stays."""
    for path in folder.iterdir():
        found = _LIVE.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
