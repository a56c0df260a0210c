"""CosineAnnealingLR: the rate follows half a cosine down to a floor."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import NonNegative, PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class CosineAnnealingLR(Schedule):
    """Moves the rate from base_lr to eta_min along half a cosine.

    Past T_max the cosine goes on: the rate is back at base_lr after 2 T_max
    steps, and so forth. Where eta_min is above base_lr the rate rises first.
    Source: Loshchilov and Hutter,
    "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.
    """

    formula = (
        r"\eta_t = \eta_{\min} + \frac{1}{2} (\eta_0 - \eta_{\min})"
        r" \left(1 + \cos\frac{\pi t}{T_{\max}}\right)"
    )
    torch_name = "torch.optim.lr_scheduler.CosineAnnealingLR"
    examples = (
        {"T_max": 100},
        {"T_max": 50, "eta_min": 0.001},
        {"T_max": 10, "eta_min": 0.5},
        {"T_max": 1, "eta_min": 0},
    )
    rejects = (
        Reject({}, "T_max"),
        Reject({"T_max": 0}, "T_max"),
        Reject({"T_max": -10}, "T_max"),
        Reject({"T_max": 10.5}, "T_max"),
        Reject({"T_max": "100"}, "T_max"),
        Reject({"T_max": 100, "eta_min": -0.1}, "eta_min"),
        Reject({"T_max": 100, "eta_min": float("nan")}, "eta_min"),
        Reject({"t_max": 100}, "T_max"),
    )

    type: Literal["CosineAnnealingLR"] = "CosineAnnealingLR"
    T_max: PositiveCount
    """The number of steps from base_lr down to eta_min."""

    eta_min: NonNegative = 0.0
    """The rate reached at step T_max, not scaled by base_lr."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the mean of base_lr and eta_min weighted by (1 + cos(πt / T_max)) / 2."""
        weight = self._weights(t)
        return base_lr * weight + self.eta_min * (1 - weight)

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:
        """Return what scales the distance to eta_min; the floor is left by an addition."""
        before = self._weights(t - 1)
        leaves = (t > 0) & (before == 0)
        ratios = np.divide(self._weights(t), before, out=np.ones(t.shape), where=before > 0)
        ratios[t == 0] = 1
        step = (base_lr - self.eta_min) * np.square(np.sin(np.pi / 2 / self.T_max))
        return ratios, np.where(leaves, step, self.eta_min * (1 - ratios))

    def _weights(self, t: Steps) -> Rates:
        """Return (1 + cos(πt / T_max)) / 2."""
        # Folding to [0, T] in integers keeps the phase exact however large t is.
        ahead = np.abs(self.T_max - t % (2 * self.T_max))
        # sin²(x/2) = (1 − cos x) / 2 does not cancel near the floor as 1 + cos does.
        weights: Rates = np.square(np.sin(ahead * (np.pi / 2) / self.T_max))
        return weights

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say that the curve turns round, where it does."""
        if seen.stop <= self.T_max + 1:
            return []
        turn, back = origin + self.T_max, origin + 2 * self.T_max
        note = (
            f"CosineAnnealingLR turns round at step {turn} (T_max), as in torch, "
            f"and is back at base_lr at step {back}."
        )
        return [note]
