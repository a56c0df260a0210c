"""SWALR: the rate moves to the constant one of stochastic weight averaging."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from gradstep_server.kinds import Count, NonNegative, Reject
from gradstep_server.schedulers.annealing import Strategy, Values, anneal, weights
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class SWALR(Schedule):
    """Moves the rate to swa_lr over anneal_epochs steps and holds it there.

    In a SequentialLR it goes on from the rate that the scheduler before it left, as
    in torch, so that averaging begins without a jump. In a session it may take over
    likewise, when the session's scheduler and lr are changed together.
    Source: Izmailov et al., "Averaging Weights
    Leads to Wider Optima and Better Generalization", 2018.
    """

    formula = (
        r"\eta_t = \alpha_t \, \eta_{swa} + (1 - \alpha_t) \, \eta_0,"
        r" \quad \alpha_t = \frac{1 - \cos \pi x_t}{2} \text{ or } x_t,"
        r" \quad x_t = \min\left(1, \frac{t}{\mathrm{anneal\_epochs}}\right)"
    )
    torch_name = "torch.optim.swa_utils.SWALR"
    continues: ClassVar[bool] = True
    examples = (
        {"swa_lr": 0.05, "anneal_epochs": 50},
        {"swa_lr": 0.05},
        {"swa_lr": 0.5, "anneal_epochs": 20, "anneal_strategy": "linear"},
        {"swa_lr": 0.01, "anneal_epochs": 0},
    )
    rejects = (
        Reject({}, "swa_lr"),
        Reject({"swa_lr": -0.1}, "swa_lr"),
        Reject({"swa_lr": [0.1, 0.2]}, "swa_lr"),
        Reject({"swa_lr": 0.1, "anneal_epochs": -1}, "anneal_epochs"),
        Reject({"swa_lr": 0.1, "anneal_epochs": 2.5}, "anneal_epochs"),
        Reject({"swa_lr": 0.1, "anneal_strategy": "cosine"}, "anneal_strategy"),
        Reject({"swa_lr": 0.1, "swa_start": 5}, "swa_start"),
    )

    type: Literal["SWALR"] = "SWALR"
    swa_lr: NonNegative
    """The rate to arrive at, not scaled by base_lr."""

    anneal_epochs: Count = 10
    """The number of steps on the way; with 0 the rate is swa_lr from the first step on."""

    anneal_strategy: Strategy = "cos"
    """The path: half a cosine, or a straight line."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate on the way from base_lr to swa_lr."""
        return anneal(self.anneal_strategy, self._left(t), base_lr, self.swa_lr)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:  # noqa: ARG002 - any rate moves alike
        """Return what scales the distance to swa_lr."""
        left = weights(self.anneal_strategy, self._left(t))
        before = weights(self.anneal_strategy, self._left(np.maximum(t - 1, 0)))
        ratios = np.divide(left, before, out=np.zeros(t.shape), where=before > 0)
        return ratios, self.swa_lr * (1 - ratios)

    def _left(self, t: Steps) -> Values:
        """Return the share of the way that is left at each t."""
        if self.anneal_epochs == 0:
            return np.zeros(t.shape)
        return np.maximum(self.anneal_epochs - t, 0) / self.anneal_epochs
