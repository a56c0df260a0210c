"""What every schedule has: a rule from step numbers to rates, and no state.

A schedule is a pure function of t, the number of optimizer steps (or epochs)
taken before the rate is used: t = 0 gives the rate of the first step. So a
curve of any window costs only its own points, and a preview and a training run
cannot differ. This module knows neither HTTP nor sessions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gradstep_server.kinds import MAX_COUNT, Kind
from gradstep_server.schedulers.followed import Followed

Steps = NDArray[np.int64]
"""Step numbers in any order, in one dimension."""

Rates = NDArray[np.float64]
"""Learning rates, one for each step number."""


Momentums = NDArray[np.float64]
"""Momentums, one for each step number; NaN where the optimizer keeps its own."""


Metrics = NDArray[np.float64]
"""What was measured after step 0, after step 1 and so on; NaN where it was no number."""


class RateError(ValueError):
    """Raised when a schedule has no rate that can be used at a step.

    RateError
    ├── RateOverflow   it is larger than a float64 can hold
    ├── NegativeRate   it is below 0
    ├── UndefinedRate  it is not a number
    ├── OutOfReach     too many steps lead to it
    └── Unmeasured     it follows a metric, and none was given
    """

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"The rate at step {step} {why}")
        self.step = step


class RateOverflow(RateError):
    """Raised when a rate grows beyond what a float64 can hold."""

    def __init__(self, step: int) -> None:
        super().__init__(
            step,
            "is too large for a float64. Ask for fewer steps, or lower gamma or base_lr.",
        )


class NegativeRate(RateError):
    """Raised when a rate drops below 0, where training would undo what it learned."""

    def __init__(self, step: int) -> None:
        super().__init__(step, "is below 0. Ask for fewer steps, or change the schedule.")


class UndefinedRate(RateError):
    """Raised when a rate is not a number, such as 0 divided by 0."""

    def __init__(self, step: int) -> None:
        super().__init__(step, "is not a number. Change the schedule, or ask for other steps.")


class OutOfReach(RateError):
    """Raised when more steps lead to a rate than may be taken for one answer."""

    def __init__(self, step: int, furthest: int) -> None:
        super().__init__(
            step,
            f"follows from all steps before it, too many to take. Ask for steps up to {furthest}.",
        )


class Unmeasured(RateError):
    """Raised when a schedule that follows a metric is asked without any."""

    def __init__(self, step: int) -> None:
        super().__init__(step, "follows a metric. Give what was measured, or choose another kind.")


class Schedule(Kind):
    """The base of every scheduler class."""

    continues: ClassVar[bool] = False
    """Whether it goes on from the rate that it finds, not from base_lr, in a sequence."""

    needs_metrics: ClassVar[bool] = False
    """Whether its rates follow from what is measured after each step."""

    def follow(self, before: Followed, metrics: Metrics) -> Followed:  # noqa: ARG002 - for kinds that follow one
        """Return what is kept after more was measured: nothing, unless the kind follows a metric.

        Args:
            before: what is kept of all measurements before.
            metrics: what was measured then, in order.
        """
        return before

    def counted(self, t: Steps, followed: Followed | None) -> Steps:  # noqa: ARG002 - for kinds that follow one
        """Return what the rule counts at each t: steps, unless the kind follows a metric.

        Args:
            t: step numbers from 0, in any order.
            followed: what is kept of the measurements; None where nothing ever is measured.
        """
        return t

    @abstractmethod
    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate at each t by the kind's formula, element by element.

        Args:
            t: what the rule counts, from 0: step numbers; they are not modified.
            base_lr: the rate that the schedule scales, finite and at least 0.

        Returns:
            A new array of the length of `t`. An element depends on nothing but
            its own t, so that a slice of a curve equals the curve's slice bit
            for bit. It may hold what no rate can be: `lrs` refuses it.
        """

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:
        """Return how the rate moves from the step before each t, as torch steps it.

        A chain applies such moves one after the other to one rate. A kind whose rule
        in torch knows nothing of the rate before it, as this default, sets the rate.

        Args:
            t: step numbers from 0, in any order.
            base_lr: the rate that the schedule scales.

        Returns:
            Two new arrays of the length of `t`, a and b: a rate r becomes a · r + b.
            At t = 0 they move the rate with which the schedule begins.
        """
        return np.zeros(t.shape), self.rule(t, base_lr)

    def lrs(self, t: Steps, base_lr: float, followed: Followed | None = None) -> Rates:
        """Return the rate at each t, all of them finite and at least 0.

        Args:
            t: step numbers from 0, in any order.
            base_lr: the rate that the schedule scales, finite and at least 0.
            followed: what `follow` has kept, for a kind that follows a metric; behind the
                last measurement the rate is held.

        Returns:
            A new array of the length of `t`.

        Raises:
            RateError: a rate is too large, below 0, undefined, out of reach or unmeasured.
        """
        if t.size and t.max() > self.furthest:
            raise OutOfReach(int(t.max()), self.furthest)
        with np.errstate(all="ignore"):
            rates = self.rule(self.counted(t, followed), base_lr)
        # NaN fails both comparisons.
        usable = (rates >= 0) & (rates < np.inf)
        if not usable.all():
            raise _refusal(t[~usable], rates[~usable])
        return rates

    def lr(self, t: int, base_lr: float, followed: Followed | None = None) -> float:
        """Return the rate at one t: the same bits that `lrs` gives for it."""
        return float(self.lrs(np.array([t], dtype=np.int64), base_lr, followed)[0])

    @property
    def size(self) -> int:
        """How many schedules it holds, itself if it is no composite."""
        return 1

    @property
    def furthest(self) -> int:
        """The last t that has a rate: below `MAX_COUNT` where every step is taken from 0."""
        return MAX_COUNT

    @property
    def moves_momentum(self) -> bool:
        """Whether this schedule sets the optimizer's momentum at some steps."""
        return False

    def momentums(self, t: Steps) -> Momentums:
        """Return the momentum at each t: SGD's, or the first beta where there are betas.

        Args:
            t: step numbers from 0, in any order.

        Returns:
            A new array of the length of `t`, NaN where the optimizer keeps its own.
        """
        return np.full(t.shape, np.nan)

    def momentum(self, t: int) -> float | None:
        """Return the momentum at one t; None where the optimizer keeps its own."""
        value = float(self.momentums(np.array([t], dtype=np.int64))[0])
        return None if math.isnan(value) else value

    def notes(self, seen: range, origin: int = 0) -> list[str]:  # noqa: ARG002 - for kinds that have something to say
        """Return what a user should know of the part of the curve that is seen.

        Args:
            seen: this schedule's t from the first point of the curve to the last.
            origin: the step, as the user counts, at which this schedule's t is 0.
        """
        return []


def _refusal(t: Steps, rates: Rates) -> RateError:
    """Return what is wrong with the earliest of some unusable rates."""
    first = int(t.argmin())
    step, rate = int(t[first]), float(rates[first])
    if math.isnan(rate):
        return UndefinedRate(step)
    return NegativeRate(step) if rate < 0 else RateOverflow(step)


def decayed(base_lr: float, gamma: float, times: Steps) -> Rates:
    """Return ``base_lr * gamma ** times``, where a rate of 0 stays 0."""
    # 0 × inf would be NaN, where stepping through the schedule gives 0.
    if base_lr == 0:
        return np.zeros(times.shape)
    return base_lr * np.power(gamma, times.astype(np.float64))
