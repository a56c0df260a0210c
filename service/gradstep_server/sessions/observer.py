"""What sessions tell whoever watches them; by default no one does.

The protocol is owned here, as a store's is, so that sessions know nothing of
metrics. What one step spends its time on is in `laps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

SnapshotOutcome = Literal["kept", "abandoned", "failed"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What the sessions in memory take of their budget."""

    sessions: int
    nbytes: int
    budget: int


class Observer(Protocol):
    """Is told of what happens to sessions beside the requests, from the event loop."""

    def rebuilt(self, entries: int, seconds: float) -> None:
        """The state of a session was rebuilt, or brought up to date, by replaying entries."""
        ...

    def evicted(self) -> None:
        """A session gave up its memory to another one."""
        ...

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """A snapshot has ended."""
        ...


class _Unobserved:
    def rebuilt(self, entries: int, seconds: float) -> None:
        """Ignore it."""

    def evicted(self) -> None:
        """Ignore it."""

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """Ignore it."""


UNOBSERVED: Observer = _Unobserved()
"""The observer where there is none."""
