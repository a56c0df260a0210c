"""Space put by for deletes: a full disk must not keep a session from being deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE = 2**20
"""Many times what a delete writes before it frees anything."""


class Reserve:
    """A file that holds nothing. Processes that share a directory share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Take the space, as far as there is any."""
        with suppress(OSError):
            if not self.path.exists() or self.path.stat().st_size < SIZE:
                # Random: a file system that compresses would keep no space for zeros.
                self.path.write_bytes(os.urandom(SIZE))

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Give the space back for the block."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.fill()
