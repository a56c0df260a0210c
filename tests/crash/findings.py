"""What an experiment found, in the words of the table in ``docs/reliability.md``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One row: what was done to which promise, and what came of it."""

    promise: str
    """The promises at stake, such as ``D1``."""

    experiment: str
    """A short name."""

    did: str
    """What was done, with its numbers."""

    found: str
    """What came of it, with its numbers."""


def scaled(full: int, scale: float) -> int:
    """Return a number of repetitions at this scale, at least one."""
    return max(1, round(full * scale))


@contextmanager
def evidence(experiment: str) -> Iterator[Path]:
    """Lend a folder for an experiment's files, which stays if the experiment fails."""
    folder = Path(tempfile.mkdtemp(prefix=f"gradstep-crash-{experiment}-"))
    try:
        yield folder
    except AssertionError as error:
        raise AssertionError(f"{error}\nThe evidence is in {folder}") from error
    shutil.rmtree(folder)
