"""Files and names in a file system: put on disk, measured, and removed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_ENDINGS = ("", "-wal", "-shm")


def fsync(path: Path) -> None:
    """Put a file, or the names in a folder, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(path: Path) -> int:
    """Return the bytes of the file and of what SQLite keeps beside it, as far as they exist."""
    nbytes = 0
    for ending in _ENDINGS:
        with suppress(FileNotFoundError):
            nbytes += path.with_name(path.name + ending).stat().st_size
    return nbytes


def unlink(path: Path) -> None:
    """Remove the file and what SQLite keeps beside it, as far as they exist."""
    for ending in _ENDINGS:
        path.with_name(path.name + ending).unlink(missing_ok=True)
