"""CyclicLR: the rate goes up and down between two bounds, the momentum against it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gradstep_server.kinds import Flag, Fraction, NonNegative, PositiveCount, Real, Reject
from gradstep_server.schedulers.annealing import Values
from gradstep_server.schedulers.base import Momentums, Rates, Schedule, Steps


class CyclicLR(Schedule):
    """Moves the rate up and down along straight lines between base_lr and max_lr.

    The height of the cycles stays the same (`triangular`), halves after each one
    (`triangular2`), or shrinks by gamma at every step (`exp_range`). The momentum
    moves the other way, or the first beta of an optimizer that has betas.
    Source: Smith, "Cyclical Learning Rates
    for Training Neural Networks", 2015.
    """

    formula = (
        r"\eta_t = \eta_{base} + (\eta_{max} - \eta_{base}) \, x_t \, h_t,"
        r" \quad p = t \bmod (u + d),"
        r" \quad x_t = \begin{cases} p / u & p \le u \\ (u + d - p) / d & p > u \end{cases},"
        r" \quad h_t \in \left\{1, \; 2^{-\lfloor t / (u + d) \rfloor}, \; \gamma^t\right\}"
    )
    torch_name = "torch.optim.lr_scheduler.CyclicLR"
    examples = (
        {"max_lr": 0.5, "step_size_up": 20},
        {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 10, "mode": "triangular2"},
        {"max_lr": 1, "step_size_up": 8, "step_size_down": 12, "mode": "exp_range", "gamma": 0.98},
        {"max_lr": 0.3, "step_size_up": 1, "step_size_down": 9, "cycle_momentum": False},
        {"max_lr": 0.001},
    )
    rejects = (
        Reject({}, "max_lr"),
        Reject({"max_lr": -0.1}, "max_lr"),
        Reject({"max_lr": [0.1, 0.2]}, "max_lr"),
        Reject({"max_lr": 0.1, "base_lr": -0.1}, "base_lr"),
        Reject({"max_lr": 0.1, "step_size_up": 0}, "step_size_up"),
        Reject({"max_lr": 0.1, "step_size_up": 2.5}, "step_size_up"),
        Reject({"max_lr": 0.1, "step_size_down": 0}, "step_size_down"),
        Reject({"max_lr": 0.1, "mode": "square"}, "mode"),
        Reject({"max_lr": 0.1, "gamma": 1.1}, "gamma"),
        Reject({"max_lr": 0.1, "gamma": -0.5}, "gamma"),
        Reject({"max_lr": 0.1, "cycle_momentum": "no"}, "cycle_momentum"),
        Reject({"max_lr": 0.1, "base_momentum": 1}, "base_momentum"),
        Reject({"max_lr": 0.1, "max_momentum": 1.5}, "max_momentum"),
        Reject({"max_lr": 0.1, "scale_fn": "x"}, "scale_fn"),
    )

    type: Literal["CyclicLR"] = "CyclicLR"
    max_lr: NonNegative
    """The rate at the top of the first cycle, for every parameter group."""

    base_lr: NonNegative | None = None
    """The rate at the bottom of every cycle; by default what else a schedule scales."""

    step_size_up: PositiveCount = 2000
    """The number of steps from the bottom to the top."""

    step_size_down: PositiveCount | None = None
    """The number of steps from the top to the bottom; by default as many as up."""

    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    """How the height of the cycles changes."""

    gamma: Annotated[Real, Field(ge=0, le=1)] = 1.0
    """The factor by which each step lowers the height in mode `exp_range`, from 0 to 1."""

    cycle_momentum: Flag = True
    """Whether the momentum moves against the rate."""

    base_momentum: Fraction = 0.8
    """The momentum at the top of the first cycle."""

    max_momentum: Fraction = 0.9
    """The momentum at the bottom of every cycle."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr and the share of the way to max_lr that t has gone."""
        bottom = base_lr if self.base_lr is None else self.base_lr
        return bottom + (self.max_lr - bottom) * self._height(t)

    @property
    def moves_momentum(self) -> bool:
        """Whether cycle_momentum is set."""
        return self.cycle_momentum

    def momentums(self, t: Steps) -> Momentums:
        """Return max_momentum less the share of the way to base_momentum that t has gone."""
        if not self.cycle_momentum:
            return super().momentums(t)
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self._height(t)

    def _height(self, t: Steps) -> Values:
        """Return how high each t is, from 0 at the bottom to 1 at the top of the first cycle."""
        up, down = self.step_size_up, self.step_size_down or self.step_size_up
        cycle, position = np.divmod(t, up + down)
        height = np.where(position <= up, position / up, (up + down - position) / down)
        if self.mode == "triangular2":
            # Beyond 2,000 halvings any height is 0, and ldexp takes no more than 32 bits.
            return np.ldexp(height, -np.minimum(cycle, 2_000).astype(np.int32))
        return height * np.power(self.gamma, t) if self.mode == "exp_range" else height
