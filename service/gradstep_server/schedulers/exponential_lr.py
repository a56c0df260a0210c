"""ExponentialLR: the rate falls by the same factor at every step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps, decayed


class ExponentialLR(Schedule):
    """Multiplies the rate by gamma at every step.

    With gamma above 1 the rate grows, as a learning-rate range test wants.
    """

    formula = r"\eta_t = \eta_0 \, \gamma^t"
    torch_name = "torch.optim.lr_scheduler.ExponentialLR"
    examples = (
        {"gamma": 0.95},
        {"gamma": 0.9999},
        {"gamma": 1.05},
        {"gamma": 1},
    )
    rejects = (
        Reject({}, "gamma"),
        Reject({"gamma": -0.5}, "gamma"),
        Reject({"gamma": "0.95"}, "gamma"),
        Reject({"gamma": True}, "gamma"),
        Reject({"gamma": None}, "gamma"),
        Reject({"gamma": float("nan")}, "gamma"),
        Reject({"gamma": 0.95, "step_size": 1}, "step_size"),
    )

    type: Literal["ExponentialLR"] = "ExponentialLR"
    gamma: NonNegative
    """The factor applied at every step."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr · γᵗ."""
        return decayed(base_lr, self.gamma, t)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - it only scales
        """Return gamma at every step but the first."""
        return np.where(t > 0, self.gamma, 1.0), np.zeros(t.shape)
