"""PolynomialLR: the rate falls to 0 along a power of what is left of the run."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import NonNegative, PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class PolynomialLR(Schedule):
    """Lowers the rate from base_lr to 0 over total_iters steps, along a power.

    With power 1 the path is a straight line, above 1 it falls steeply at first,
    below 1 at the end. From step total_iters on the rate is 0; with power 0 it is
    base_lr throughout.
    """

    formula = (
        r"\eta_t = \eta_0 \left(1 - \frac{\min(t, \mathrm{total\_iters})}"
        r"{\mathrm{total\_iters}}\right)^{\mathrm{power}}"
    )
    torch_name = "torch.optim.lr_scheduler.PolynomialLR"
    examples = (
        {"total_iters": 90, "power": 2},
        {},
        {"total_iters": 100, "power": 0.5},
        {"total_iters": 1, "power": 0},
    )
    rejects = (
        Reject({"total_iters": 0}, "total_iters"),
        Reject({"total_iters": -5}, "total_iters"),
        Reject({"total_iters": 2.5}, "total_iters"),
        Reject({"power": -1}, "power"),
        Reject({"power": "2"}, "power"),
        Reject({"power": float("nan")}, "power"),
        Reject({"lr_end": 0.1}, "lr_end"),
    )

    type: Literal["PolynomialLR"] = "PolynomialLR"
    total_iters: PositiveCount = 5
    """The number of steps from base_lr down to 0."""

    power: NonNegative = 1.0
    """The exponent of the path."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the share of steps that are left, to the power."""
        left = np.maximum(self.total_iters - t, 0) / self.total_iters
        return base_lr * np.power(left, self.power)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - it only scales
        """Return by what the steps that are left are fewer than before, to the power."""
        left = np.maximum(self.total_iters - t, 0)
        falls = (t > 0) & (t <= self.total_iters)
        ratios = np.power(left / (left + 1), self.power)
        return np.where(falls, ratios, 1.0), np.zeros(t.shape)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say from where the rate is 0, where it is."""
        if self.power == 0 or seen.stop <= self.total_iters:
            return []
        return [f"PolynomialLR reaches 0 at step {origin + self.total_iters} and stays there."]
