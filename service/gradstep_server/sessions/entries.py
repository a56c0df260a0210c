"""The kinds of entries, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gradstep_server.sessions.digests import seal
from gradstep_server.sessions.store import Entry
from gradstep_server.sessions.tensors import Tensors

INIT = "init"
"""The parameters, or a whole state, are set."""

STEP = "step"
"""An optimizer step was taken, or skipped."""

EPOCH = "epoch"
"""An epoch ended."""

CONFIG = "config"
"""The configuration changed."""

REWIND = "rewind"
"""The session went back to what it was after entry n."""

RECOVERY = "recovery"
"""The store may have lost what stood behind this entry before it was synced."""

UNSYNCED = {STEP, EPOCH}
"""What a relaxed session acknowledges before it is synced."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An entry that is not in the log yet."""

    n: int
    step: int
    record: bytes
    nbytes: int | None = None
    """The memory that the session takes from then on, where that changes."""

    past: int | None = None
    """The entry that the session goes back to first, where it does."""


def sealed_entry(
    seq: int, kind: str, planned: Planned, content: bytes, tensors: Tensors, now: float
) -> Entry:
    """Return a complete entry."""
    entry = Entry(
        seq=seq,
        kind=kind,
        n=planned.n,
        step=planned.step,
        digest=content,
        record=planned.record,
        seal=b"",
        body_size=sum(len(tensor.data) for tensor in tensors.values()),
        created_at=now,
    )
    return replace(entry, seal=seal(entry))
