"""MultiStepLR: the rate falls by a factor at chosen steps."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gradstep_server.kinds import Count, NonNegative, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps, decayed

MAX_MILESTONES = 10_000
"""Far more than anyone lists, few enough to sort at every call."""

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class MultiStepLR(Schedule):
    """Multiplies the rate by gamma at each milestone.

    A milestone that is listed twice counts twice. The order does not matter. A
    milestone of 0 applies from the first step on.
    """

    formula = r"\eta_t = \eta_0 \, \gamma^{\left|\{m \in \mathrm{milestones} : m \le t\}\right|}"
    torch_name = "torch.optim.lr_scheduler.MultiStepLR"
    examples = (
        {"milestones": [30, 80], "gamma": 0.1},
        {"milestones": [2, 2, 4], "gamma": 0.5},
        {"milestones": [60, 0, 30]},
        {"milestones": []},
    )
    rejects = (
        Reject({}, "milestones"),
        Reject({"milestones": 30}, "milestones"),
        Reject({"milestones": [30, -1]}, "milestones"),
        Reject({"milestones": [2.5]}, "milestones"),
        Reject({"milestones": [True]}, "milestones"),
        Reject({"milestones": list(range(MAX_MILESTONES + 1))}, "milestones"),
        Reject({"milestones": [30], "gamma": -0.1}, "gamma"),
        Reject({"milestones": [30], "gamma": float("inf")}, "gamma"),
    )

    type: Literal["MultiStepLR"] = "MultiStepLR"
    milestones: Annotated[tuple[Count, ...], Field(max_length=MAX_MILESTONES, fail_fast=True)]
    """The steps at which gamma is applied."""

    gamma: NonNegative = 0.1
    """The factor applied at each milestone."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr · γ^(the number of milestones that are at most t)."""
        return decayed(base_lr, self.gamma, np.searchsorted(self._sorted(), t, side="right"))

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - it only scales
        """Return gamma once for every time that t is listed."""
        before, after = (np.searchsorted(self._sorted(), t, side=side) for side in _SIDES)
        return decayed(1.0, self.gamma, after - before), np.zeros(t.shape)

    def _sorted(self) -> Steps:
        return np.sort(np.array(self.milestones, dtype=np.int64))

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say which milestones count more than once."""
        return [
            f"MultiStepLR applies gamma {times} times at step {origin + milestone}, "
            "which milestones lists as often."
            for milestone, times in sorted(Counter(self.milestones).items())
            if times > 1 and milestone < seen.stop
        ]
