"""ConstantLR: the rate is scaled down for a number of steps."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gradstep_server.kinds import PositiveCount, Real, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class ConstantLR(Schedule):
    """Multiplies the rate by factor for the first total_iters steps.

    A factor of 0 holds the parameters still until then; torch divides by the
    factor there, and fails.
    """

    formula = (
        r"\eta_t = \begin{cases} \eta_0 \cdot \mathrm{factor} & t < \mathrm{total\_iters} \\"
        r" \eta_0 & \text{otherwise} \end{cases}"
    )
    torch_name = "torch.optim.lr_scheduler.ConstantLR"
    examples = (
        {"factor": 0.5, "total_iters": 10},
        {},
        {"factor": 1, "total_iters": 1},
    )
    rejects = (
        Reject({"factor": 1.5}, "factor"),
        Reject({"factor": -0.5}, "factor"),
        Reject({"factor": "0.5"}, "factor"),
        Reject({"factor": float("nan")}, "factor"),
        Reject({"total_iters": 0}, "total_iters"),
        Reject({"total_iters": -1}, "total_iters"),
        Reject({"total_iters": 2.5}, "total_iters"),
        Reject({"start_factor": 0.5}, "start_factor"),
    )

    type: Literal["ConstantLR"] = "ConstantLR"
    factor: Annotated[Real, Field(ge=0, le=1)] = 1 / 3
    """The share of base_lr used at first, from 0 to 1."""

    total_iters: PositiveCount = 5
    """The number of steps for which the factor applies."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr · factor before total_iters, and base_lr from there on."""
        return np.where(t < self.total_iters, base_lr * self.factor, base_lr)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:
        """Return factor at the first step, and what undoes it at total_iters."""
        ends = t == self.total_iters
        if self.factor == 0:
            # Nothing times 0 comes back: base_lr does.
            return np.where(ends | (t == 0), 0.0, 1.0), np.where(ends, base_lr, 0.0)
        factors = np.where(t == 0, self.factor, np.where(ends, 1 / self.factor, 1.0))
        return factors, np.zeros(t.shape)
