"""What a part of the benchmark measures: rows of one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """Many measurements of one thing, in seconds unless the row says otherwise."""

    median: float
    least: float
    p95: float
    """What 95 in 100 do not exceed."""

    @classmethod
    def of(cls, measured: Sequence[float]) -> Self:
        """Return the spread of these measurements."""
        return cls(
            median(measured), min(measured), sorted(measured)[math.ceil(0.95 * len(measured)) - 1]
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One thing of ours beside others that were measured in the same run, turn about."""

    part: str
    """The module that measured it."""

    case: str
    """What was worked on, such as ``AdamW, 1 M``."""

    what: str
    """What of ours was measured, such as ``kernel``."""

    ours: Spread

    others: Mapping[str, Spread]
    """By name; the first one is what `ratio` compares with."""

    ratio: float
    """Ours to the first other's: the median over the rounds, not the ratio of medians."""

    target: float | None = None
    """The largest ratio that is promised; None where none is."""

    unit: str = "s"
    """``s`` for seconds, ``B`` for bytes."""

    @property
    def met(self) -> bool | None:
        """Whether the ratio is what was promised; None where nothing was."""
        return None if self.target is None else self.ratio <= self.target

    @classmethod
    def compare(
        cls,
        part: str,
        case: str,
        what: str,
        measured: Mapping[str, Sequence[float]],
        *,
        ours: str,
        others: Sequence[str],
        target: float | None = None,
    ) -> Self:
        """Return the row of some of the things that took their turns in `measured`."""
        pairs = zip(measured[ours], measured[others[0]], strict=True)
        return cls(
            part,
            case,
            what,
            Spread.of(measured[ours]),
            {name: Spread.of(measured[name]) for name in others},
            median(mine / theirs for mine, theirs in pairs),
            target,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a part is told of its run, and tells of itself."""

    show: Callable[[int, int], None]
    """Called with how many cases are done, and of how many."""

    quick: bool = False
    """Whether a few rounds of the small cases will do, to see that it runs."""


Part = Callable[[Progress], list[Row]]
"""What every module of the benchmark has as `run`."""
