"""LinearLR: the rate moves along a straight line, as in a warm-up."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gradstep_server.kinds import PositiveCount, Real, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class LinearLR(Schedule):
    """Scales the rate from start_factor to end_factor over total_iters steps.

    From step total_iters on the rate is held at base_lr · end_factor.
    """

    formula = (
        r"\eta_t = \eta_0 \left(s + (e - s) \,"
        r" \frac{\min(t, \mathrm{total\_iters})}{\mathrm{total\_iters}}\right),"
        r" \quad s = \mathrm{start\_factor}, \; e = \mathrm{end\_factor}"
    )
    torch_name = "torch.optim.lr_scheduler.LinearLR"
    examples = (
        {"start_factor": 0.1, "total_iters": 20},
        {},
        {"start_factor": 1, "end_factor": 0, "total_iters": 100},
        {"start_factor": 0.9, "end_factor": 0.25, "total_iters": 1},
    )
    rejects = (
        Reject({"start_factor": 0}, "start_factor"),
        Reject({"start_factor": 1.5}, "start_factor"),
        Reject({"start_factor": True}, "start_factor"),
        Reject({"end_factor": -0.1}, "end_factor"),
        Reject({"end_factor": 1.1}, "end_factor"),
        Reject({"end_factor": float("nan")}, "end_factor"),
        Reject({"total_iters": 0}, "total_iters"),
        Reject({"total_iters": 10.0}, "total_iters"),
        Reject({"factor": 0.5}, "factor"),
    )

    type: Literal["LinearLR"] = "LinearLR"
    start_factor: Annotated[Real, Field(gt=0, le=1)] = 1 / 3
    """The share of base_lr at the first step, above 0 and at most 1."""

    end_factor: Annotated[Real, Field(ge=0, le=1)] = 1.0
    """The share of base_lr from step total_iters on, from 0 to 1."""

    total_iters: PositiveCount = 5
    """The number of steps from start_factor to end_factor."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the factor interpolated at t, held at the end."""
        return base_lr * self._factors(t)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - it only scales
        """Return by what the factor at t differs from the one before."""
        # From total_iters on the factor stays; before, it is above 0.
        before = self._factors(np.clip(t - 1, 0, self.total_iters - 1))
        ratios = np.where(t <= self.total_iters, self._factors(t) / before, 1.0)
        return np.where(t == 0, self.start_factor, ratios), np.zeros(t.shape)

    def _factors(self, t: Steps) -> Rates:
        line = self.start_factor + (self.end_factor - self.start_factor) * (t / self.total_iters)
        return np.where(t < self.total_iters, line, self.end_factor)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say from where the rate is 0, where it is."""
        if self.end_factor > 0 or seen.stop <= self.total_iters:
            return []
        return [f"LinearLR reaches 0 at step {origin + self.total_iters} and stays there."]
