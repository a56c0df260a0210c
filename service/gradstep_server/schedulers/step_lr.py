"""StepLR: the rate falls by a factor at regular intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import NonNegative, PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps, decayed


class StepLR(Schedule):
    """Multiplies the rate by gamma every step_size steps."""

    formula = r"\eta_t = \eta_0 \, \gamma^{\lfloor t / \mathrm{step\_size} \rfloor}"
    torch_name = "torch.optim.lr_scheduler.StepLR"
    examples = (
        {"step_size": 30, "gamma": 0.1},
        {"step_size": 1, "gamma": 0.95},
        {"step_size": 7},
    )
    rejects = (
        Reject({}, "step_size"),
        Reject({"step_size": 0}, "step_size"),
        Reject({"step_size": -5}, "step_size"),
        Reject({"step_size": 1.5}, "step_size"),
        Reject({"step_size": True}, "step_size"),
        Reject({"step_size": 30, "gamma": -0.1}, "gamma"),
        Reject({"step_size": 30, "gamma": "0.1"}, "gamma"),
        Reject({"step_size": 30, "gamma": float("nan")}, "gamma"),
        Reject({"step_size": 30, "decay": 0.1}, "decay"),
    )

    type: Literal["StepLR"] = "StepLR"
    step_size: PositiveCount
    """The number of steps for which the rate stays the same."""

    gamma: NonNegative = 0.1
    """The factor applied after each step_size steps."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr · γ^⌊t / step_size⌋."""
        return decayed(base_lr, self.gamma, t // self.step_size)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - it only scales
        """Return gamma at every step_size-th step, and 1 elsewhere."""
        falls = (t % self.step_size == 0) & (t > 0)
        return np.where(falls, self.gamma, 1.0), np.zeros(t.shape)
