"""Where the time of one step goes, for whoever asks afterwards."""

from __future__ import annotations

from time import perf_counter


class Laps:
    """The phases of one step: each begins where the one before ended."""

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """What each phase took, by its name, in the order in which they ended first."""

        self._since = perf_counter()

    def end(self, phase: str) -> None:
        """Count the time since the last phase ended as this one's."""
        now = perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now
