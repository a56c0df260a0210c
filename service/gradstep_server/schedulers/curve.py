"""Curves: a schedule over a window of steps, in chunks or decimated.

A window is a Python `range` of step numbers. A curve is evaluated chunk by
chunk, so that ten million points need the memory of one chunk; decimation alone
holds one group's whole curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers.base import Momentums, Rates, Schedule, Steps
from gradstep_server.schedulers.followed import NOTHING, Followed
from gradstep_server.schedulers.loop import DIRECT, Loop, Places

CHUNK = 65_536
"""Points evaluated at a time: 512 KiB of rates."""

MAX_POINTS = 10_000_000
"""The most points that a curve has unless the caller allows more."""

MIN_DECIMATED = 4
"""The fewest points that decimation keeps: both ends, and one bucket's extremes."""

OWN_STEPS = "Its steps are the schedule's own, not the loop's."
"""What to add to a sentence that names a step where the two differ."""


class WindowError(ValueError):
    """Raised when a window cannot be drawn; `field` names the parameter at fault."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


def window(
    steps: int,
    *,
    start: int = 0,
    stride: int = 1,
    last_epoch: int = -1,
    limit: int = MAX_POINTS,
    loop: Loop = DIRECT,
) -> range:
    """Return the step numbers of a curve.

    Args:
        steps: how much the curve spans, in the loop's unit, at least 1.
        start: how much to skip, in the loop's unit, at least 0.
        stride: the distance between two points, in steps of the loop, at least 1.
        last_epoch: the last step already taken, as in torch; -1 for none.
        limit: the most points allowed.
        loop: how the schedule is stepped.

    Returns:
        The steps of the loop that begin in the window, every `stride`-th of them.
        Counted in steps these are ``last_epoch + 1 + start`` and what follows.

    Raises:
        WindowError: too many points or none, or a number that JSON cannot carry.
    """
    begin = last_epoch + 1 + start
    points = range(loop.step_at(begin), loop.step_at(begin + steps), stride)
    if not points:
        raise WindowError("steps", f"No step of the loop begins in it. Ask for more {loop.unit}s.")
    if loop.furthest_count(points.stop - 1) > MAX_COUNT:
        raise WindowError("steps", f"The curve must end by step {MAX_COUNT}, sample and t too.")
    if len(points) > limit:
        raise WindowError(
            "steps",
            f"{len(points)} points are more than {limit}. "
            "Ask for fewer steps or a larger stride; max_points does not help here.",
        )
    return points


@dataclass(frozen=True)
class Curve:
    """A schedule over step numbers, one line for each base rate.

    ``steps()``, ``places()``, ``momentums()`` and every ``lrs(group)`` yield chunks of the
    same sizes, so that they can be zipped into rows or written one after the other as columns.
    """

    schedule: Schedule
    base_lrs: tuple[float, ...]
    """One base rate for each parameter group, at least one."""

    points: range | Steps
    """The step numbers in ascending order, at least one."""

    followed: Followed = NOTHING
    """What is kept of the measurements, for a schedule that follows a metric."""

    loop: Loop = DIRECT
    """How a training loop steps the schedule; the points are steps of this loop."""

    def __len__(self) -> int:
        """Return the number of points of each line."""
        return len(self.points)

    def steps(self) -> Iterator[Steps]:
        """Yield the step numbers in chunks."""
        for begin in range(0, len(self), CHUNK):
            yield self._points_at(np.arange(begin, min(begin + CHUNK, len(self))))

    def places(self) -> Iterator[Places]:
        """Yield where in the loop each step begins, in the loop's unit, in chunks."""
        for steps in self.steps():
            yield self.loop.places(steps)

    def lrs(self, group: int = 0) -> Iterator[Rates]:
        """Yield the rates of one group in chunks.

        Raises:
            RateError: a rate in the next chunk is too large, below 0 or undefined.
        """
        for steps in self.steps():
            t = self.loop.counted(steps)
            yield self.schedule.lrs(t, self.base_lrs[group], self.followed)

    def momentums(self) -> Iterator[Momentums]:
        """Yield the momentums in chunks, the same for every group."""
        for steps in self.steps():
            yield self.schedule.momentums(self.loop.counted(steps))

    def ensure_finite(self) -> None:
        """Evaluate everything once, for callers that stream and cannot turn back.

        Raises:
            RateError: a rate is too large, below 0 or undefined.
        """
        # The largest line first: where rates grow with base_lr it fails the earliest.
        for base_lr in sorted(set(self.base_lrs), reverse=True):
            for _ in self.lrs(self.base_lrs.index(base_lr)):
                pass

    def notes(self) -> list[str]:
        """Return what a user should know of this curve, most often nothing."""
        first, last = (self.loop.counted(int(self.points[i])) for i in (0, -1))
        notes = self.schedule.notes(range(first, last + 1))
        measured = self.followed.measured
        if self.schedule.needs_metrics and last > measured:
            notes.append(
                f"Nothing is known to be measured after step {measured} or later: the rate is held."
            )
        return notes if self.loop.is_direct else [f"{note} {OWN_STEPS}" for note in notes]

    def decimated(self, max_points: int) -> Curve:
        """Return the curve with at most `max_points` points that looks the same.

        The first and the last point are kept, and the lowest and the highest
        point of every bucket between them, so that jumps and spikes stay
        visible. All groups keep the same points: those of the group with the
        largest base rate. Kept points equal the full curve's bit for bit.

        Args:
            max_points: at least `MIN_DECIMATED`.

        Raises:
            WindowError: `max_points` is too small.
            RateError: a rate is too large, below 0 or undefined.
        """
        if max_points < MIN_DECIMATED:
            raise WindowError("max_points", f"At least {MIN_DECIMATED} points are needed.")
        if len(self) <= max_points:
            return self
        kept = _extremes(self.lrs(self._largest), len(self), (max_points - 2) // 2)
        return replace(self, points=self._points_at(kept))

    @property
    def _largest(self) -> int:
        return self.base_lrs.index(max(self.base_lrs))

    def _points_at(self, index: Steps) -> Steps:
        if isinstance(self.points, range):
            return self.points.start + self.points.step * index
        return self.points[index]


def _extremes(chunks: Iterator[Rates], count: int, buckets: int) -> Steps:
    """Return the indices of both ends and of each bucket's lowest and highest point.

    Where several points are the lowest or the highest, those next to the drop or
    the rise are taken: a jump keeps its place, and a flat bucket both its ends.
    """
    inner = count - 2
    size = -(-inner // buckets)
    rates = np.empty(1 + -(-inner // size) * size)
    filled = 0
    for chunk in chunks:
        part = chunk[: rates.size - filled]
        rates[filled : filled + part.size] = part
        filled += part.size
    # The last bucket is filled up with the last inner point, which changes no extreme.
    rates[1 + inner :] = rates[inner]
    rows = rates[1:].reshape(-1, size)
    # Turned over, a bucket that rises falls, and one rule serves both.
    rows[rows[:, 0] < rows[:, -1]] *= -1
    offset = 1 + size * np.arange(len(rows))
    low = offset + rows.argmin(axis=1)
    high = offset + (size - 1) - rows[:, ::-1].argmax(axis=1)
    return np.unique(np.concatenate([[0, count - 1], low, np.minimum(high, inner)]))
