"""OneCycleLR: the rate rises once and falls to almost nothing, the momentum against it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import (
    MAX_COUNT,
    Flag,
    Fraction,
    NonNegative,
    Positive,
    PositiveCount,
    Real,
    Reject,
)
from gradstep_server.schedulers.annealing import Strategy, Values, anneal
from gradstep_server.schedulers.base import Momentums, Rates, Schedule, Steps


class OneCycleLR(Schedule):
    """Raises the rate to max_lr and lowers it far below where it began, over one run.

    The rate begins at max_lr / div_factor and ends at max_lr / (div_factor ·
    final_div_factor); base_lr plays no part. The momentum moves the other way, or
    the first beta of an optimizer that has betas. Past the last step the last values
    are held, where torch extrapolates once and then fails.
    Source: Smith and Topin, "Super-Convergence:
    Very Fast Training of Neural Networks Using Large Learning Rates", 2017.
    """

    formula = (
        r"\eta_t = \begin{cases} A(\eta_{start}, \eta_{max}, t / e) & t \le e \\"
        r" A(\eta_{max}, \eta_{end}, (t - e) / (T - 1 - e)) & t > e \end{cases},"
        r" \quad e = \mathrm{pct\_start} \, T - 1,"
        r" \quad A(a, b, x) = b + \frac{a - b}{2} (1 + \cos \pi x)"
    )
    torch_name = "torch.optim.lr_scheduler.OneCycleLR"
    examples = (
        {"max_lr": 0.1, "total_steps": 100},
        {"max_lr": 1, "epochs": 5, "steps_per_epoch": 10, "anneal_strategy": "linear"},
        {"max_lr": 0.5, "total_steps": 90, "pct_start": 0.4, "three_phase": True},
        {"max_lr": 0.3, "total_steps": 11, "div_factor": 10, "cycle_momentum": False},
        {"max_lr": 0.3, "total_steps": 40, "pct_start": 1, "base_momentum": 0.5},
    )
    rejects = (
        Reject({"total_steps": 100}, "max_lr"),
        Reject({"max_lr": -1, "total_steps": 100}, "max_lr"),
        Reject({"max_lr": [0.1, 0.2], "total_steps": 100}, "max_lr"),
        Reject({"max_lr": 1}, "total_steps"),
        Reject({"max_lr": 1, "epochs": 5}, "total_steps"),
        Reject({"max_lr": 1, "steps_per_epoch": 5}, "total_steps"),
        Reject({"max_lr": 1, "epochs": 5, "steps_per_epoch": 5, "total_steps": 25}, "total_steps"),
        Reject({"max_lr": 1, "epochs": 2**40, "steps_per_epoch": 2**40}, "total_steps"),
        Reject({"max_lr": 1, "total_steps": 0}, "total_steps"),
        Reject({"max_lr": 1, "total_steps": 10.0}, "total_steps"),
        Reject({"max_lr": 1, "epochs": 0, "steps_per_epoch": 5}, "epochs"),
        Reject({"max_lr": 1, "total_steps": 9, "pct_start": 1.1}, "pct_start"),
        Reject({"max_lr": 1, "total_steps": 9, "pct_start": -0.1}, "pct_start"),
        Reject({"max_lr": 1, "total_steps": 9, "anneal_strategy": "cosine"}, "anneal_strategy"),
        Reject({"max_lr": 1, "total_steps": 9, "div_factor": 0}, "div_factor"),
        Reject({"max_lr": 1, "total_steps": 9, "final_div_factor": 0}, "final_div_factor"),
        Reject({"max_lr": 1, "total_steps": 9, "max_momentum": 1}, "max_momentum"),
        Reject({"max_lr": 1, "total_steps": 9, "base_momentum": -0.1}, "base_momentum"),
        Reject({"max_lr": 1, "total_steps": 9, "cycle_momentum": 1}, "cycle_momentum"),
    )

    type: Literal["OneCycleLR"] = "OneCycleLR"
    max_lr: NonNegative
    """The rate at the peak, for every parameter group."""

    epochs: PositiveCount | None = None
    """The number of epochs, with steps_per_epoch instead of total_steps."""

    steps_per_epoch: PositiveCount | None = None
    """The number of steps of an epoch."""

    total_steps: Annotated[PositiveCount | None, Field(validate_default=True)] = None
    """The number of steps of the run, unless epochs and steps_per_epoch are given."""

    pct_start: Annotated[Real, Field(ge=0, le=1)] = 0.3
    """The share of the run in which the rate rises, from 0 to 1."""

    anneal_strategy: Strategy = "cos"
    """The path between two rates: half a cosine, or a straight line."""

    cycle_momentum: Flag = True
    """Whether the momentum moves against the rate."""

    base_momentum: Fraction = 0.85
    """The momentum at the peak of the rate."""

    max_momentum: Fraction = 0.95
    """The momentum at the first and the last step."""

    div_factor: Positive = 25.0
    """How many times as large as the first rate max_lr is."""

    final_div_factor: Positive = 1e4
    """How many times as large as the last rate the first one is."""

    three_phase: Flag = False
    """Whether the rate falls to where it began as steeply as it rose, and then to the end."""

    @field_validator("total_steps")
    @classmethod
    def _given_once(cls, total_steps: int | None, info: ValidationInfo) -> int | None:
        if not {"epochs", "steps_per_epoch"} <= info.data.keys():
            return total_steps
        epochs, steps = info.data["epochs"], info.data["steps_per_epoch"]
        missing = [epochs, steps].count(None)
        if missing != (0 if total_steps is None else 2):
            raise PydanticCustomError(
                "steps_of_the_run", "Give either total_steps, or epochs and steps_per_epoch"
            )
        if total_steps is None and epochs * steps > MAX_COUNT:
            raise PydanticCustomError(
                "steps_of_the_run",
                "epochs times steps_per_epoch must be at most {limit}",
                {"limit": MAX_COUNT},
            )
        return total_steps

    def rule(self, t: Steps, base_lr: float) -> Rates:  # noqa: ARG002 - all rates come from max_lr
        """Return the rate on the path of the phase that t is in."""
        first = self.max_lr / self.div_factor
        return self._path(t, first, self.max_lr, first / self.final_div_factor)

    @property
    def moves_momentum(self) -> bool:
        """Whether cycle_momentum is set."""
        return self.cycle_momentum

    def momentums(self, t: Steps) -> Momentums:
        """Return the momentum on the path of the phase that t is in."""
        if not self.cycle_momentum:
            return super().momentums(t)
        return self._path(t, self.max_momentum, self.base_momentum, self.max_momentum)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say where the run ends, and that the peak is missed where it is."""
        notes = []
        peak = self.pct_start * self._steps - 1
        if not peak.is_integer() and seen.start < peak + 1 and peak < seen.stop - 1:
            notes.append(
                f"OneCycleLR misses its peak, as in torch: max_lr would be used at step "
                f"{origin + peak:g}, which is none."
            )
        if seen.stop > self._steps:
            end = origin + self._steps - 1
            notes.append(f"OneCycleLR ends at step {end} and holds its last rate from there on.")
        return notes

    @property
    def _steps(self) -> int:
        return self.total_steps or (self.epochs or 0) * (self.steps_per_epoch or 0)

    def _path(self, t: Steps, outer: float, peak: float, end: float) -> Values:
        """Return the values on the way from `outer` over `peak` to `end`, held there."""
        rise = self.pct_start * self._steps - 1
        stops, levels = [rise, self._steps - 1.0], [outer, peak, end]
        if self.three_phase:
            stops.insert(1, 2 * rise)
            levels.insert(2, outer)
        t = np.minimum(t, self._steps - 1)
        # The first phase that has not ended; the last one if all have.
        phase = np.argmax(t[:, np.newaxis] <= [*stops[:-1], np.inf], axis=1)
        start, stop = np.array([0.0, *stops])[phase], np.array(stops)[phase]
        # A phase without any length is at its end.
        left = np.divide(stop - t, stop - start, out=np.zeros(t.shape), where=stop != start)
        return anneal(self.anneal_strategy, left, *np.array([levels[:-1], levels[1:]])[:, phase])
