"""CosineAnnealingWarmRestarts: half cosines one after the other, each from the top."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradstep_server.kinds import MAX_COUNT, NonNegative, PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps


class CosineAnnealingWarmRestarts(Schedule):
    """Moves the rate from base_lr towards eta_min along half a cosine, again and again.

    The first cosine takes T_0 steps, and each one T_mult times as many as the one
    before. A cosine restarts one step before it would reach eta_min. torch, when it
    jumps to a step or resumes with T_mult above 1, may miss a restart; here any step
    has the rate that stepping from 0 gives.
    Source: Loshchilov and Hutter,
    "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016.
    """

    formula = (
        r"\eta_t = \eta_{\min} + \frac{1}{2} (\eta_0 - \eta_{\min})"
        r" \left(1 + \cos\frac{\pi \, T_{cur}}{T_i}\right),"
        r" \quad T_i = T_0 \, T_{mult}^i, \quad T_{cur} = t - \sum_{j < i} T_j"
    )
    torch_name = "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts"
    examples = (
        {"T_0": 10, "T_mult": 2},
        {"T_0": 25, "eta_min": 0.001},
        {"T_0": 1, "T_mult": 3},
        {"T_0": 7, "T_mult": 1, "eta_min": 0.5},
    )
    rejects = (
        Reject({}, "T_0"),
        Reject({"T_0": 0}, "T_0"),
        Reject({"T_0": -10}, "T_0"),
        Reject({"T_0": 10.5}, "T_0"),
        Reject({"T_0": 10, "T_mult": 0}, "T_mult"),
        Reject({"T_0": 10, "T_mult": 1.5}, "T_mult"),
        Reject({"T_0": 10, "eta_min": -0.1}, "eta_min"),
        Reject({"T_0": 10, "T_max": 10}, "T_max"),
    )

    type: Literal["CosineAnnealingWarmRestarts"] = "CosineAnnealingWarmRestarts"
    T_0: PositiveCount
    """The number of steps of the first cosine."""

    T_mult: PositiveCount = 1
    """How many times as long as the one before each further cosine is."""

    eta_min: NonNegative = 0.0
    """The rate that the cosines fall towards, not scaled by base_lr."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the mean of base_lr and eta_min weighted by (1 + cos(πT_cur / T_i)) / 2."""
        current, length = self._cycle(t)
        # sin²(x/2) = (1 − cos x) / 2 does not cancel near the floor as 1 + cos does.
        weight = np.square(np.sin((length - current) * (np.pi / 2) / length))
        return base_lr * weight + self.eta_min * (1 - weight)

    def _cycle(self, t: Steps) -> tuple[Steps, NDArray[np.float64]]:
        """Return T_cur and T_i: how far each t is into its cosine, and that cosine's length.

        The starts are found in integers: a logarithm would be off by one cosine at times.
        """
        if self.T_mult == 1:
            return t % self.T_0, np.full(t.shape, float(self.T_0))
        starts, lengths = [0], [self.T_0]
        while starts[-1] + lengths[-1] <= MAX_COUNT:
            starts.append(starts[-1] + lengths[-1])
            lengths.append(lengths[-1] * self.T_mult)
        i = np.searchsorted(starts, t, side="right") - 1
        # The last cosine may be longer than an int64 holds.
        return t - np.array(starts)[i], np.array(lengths, dtype=np.float64)[i]
