"""ReduceLROnPlateau: the rate falls when a measured value stops improving."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from gradstep_server.kinds import Count, Fraction, NonNegative, Reject
from gradstep_server.schedulers.base import Metrics, Rates, Schedule, Steps, Unmeasured
from gradstep_server.schedulers.compiled import compiled

_THRESHOLD_MODES = ("rel", "abs", "rel_abs")


class ReduceLROnPlateau(Schedule):
    """Multiplies the rate by factor when a metric has not improved for a while.

    After more than patience measurements in a row without an improvement the rate
    falls, and cooldown measurements are then passed over. A value that is no number
    never is an improvement. The rate of a step knows what was measured before it.
    """

    formula = (
        r"\eta_t = \begin{cases} \max(\eta_{t-1} \cdot \mathrm{factor}, \eta_{\min})"
        r" & \text{more than patience measurements without improvement} \\"
        r" \eta_{t-1} & \text{otherwise} \end{cases}"
    )
    torch_name = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    needs_metrics: ClassVar[bool] = True
    examples = (
        {},
        {"factor": 0.5, "patience": 2, "cooldown": 3, "min_lr": 0.001},
        {"mode": "max", "patience": 0, "threshold": 0.01, "threshold_mode": "abs"},
        {"mode": "max", "patience": 1, "threshold": 0.05, "factor": 0.9},
        {"patience": 5, "threshold_mode": "rel_abs", "eps": 0},
    )
    rejects = (
        Reject({"mode": "least"}, "mode"),
        Reject({"factor": 1}, "factor"),
        Reject({"factor": -0.1}, "factor"),
        Reject({"patience": -1}, "patience"),
        Reject({"patience": 2.5}, "patience"),
        Reject({"threshold": -1e-4}, "threshold"),
        Reject({"threshold_mode": "relative"}, "threshold_mode"),
        Reject({"cooldown": -1}, "cooldown"),
        Reject({"min_lr": -1}, "min_lr"),
        Reject({"min_lr": [0.1, 0.2]}, "min_lr"),
        Reject({"eps": float("nan")}, "eps"),
        Reject({"verbose": True}, "verbose"),
    )

    type: Literal["ReduceLROnPlateau"] = "ReduceLROnPlateau"
    mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher value is better."""

    factor: Fraction = 0.1
    """The factor by which the rate falls, from 0 to below 1."""

    patience: Count = 10
    """The number of measurements without improvement that leave the rate alone."""

    threshold: NonNegative = 1e-4
    """By how much a value must be better than the best one before."""

    threshold_mode: Literal["rel", "abs", "rel_abs"] = "rel"
    """Whether threshold is a share of the best value or an amount. With `rel` and a best
    value below 0 a worse one may count as better, as in torch; `rel_abs` takes the share
    of its absolute value."""

    cooldown: Count = 0
    """The number of measurements that are passed over after the rate fell."""

    min_lr: NonNegative = 0.0
    """The rate below which it does not fall, for every parameter group."""

    eps: NonNegative = 1e-8
    """A fall by no more than this is left out."""

    def counted(self, t: Steps, metrics: Metrics | None) -> Steps:
        """Return how often the rate has fallen before each t.

        Raises:
            Unmeasured: there are no metrics, not even an empty list of them.
        """
        if metrics is None:
            raise Unmeasured(int(t.min(initial=0)))
        counts = np.empty(metrics.size + 1, dtype=np.int64)
        count_falls(
            np.ascontiguousarray(metrics, dtype=np.float64),
            self.mode == "max",
            self.threshold,
            _THRESHOLD_MODES.index(self.threshold_mode),
            self.patience,
            self.cooldown,
            counts,
        )
        return counts[np.minimum(t, metrics.size)]

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate after it has fallen t times."""
        rates = np.empty(int(t.max(initial=0)) + 1)
        fall(base_lr, self.factor, self.min_lr, self.eps, rates)
        return rates[t]


@compiled("void(float64[::1], boolean, float64, int64, int64, int64, int64[::1])")
def count_falls(
    metrics: Metrics,
    rising: bool,  # noqa: FBT001 - a compiled loop takes no keywords
    threshold: float,
    threshold_mode: int,
    patience: int,
    cooldown: int,
    counts: NDArray[np.int64],
) -> None:
    """Write how often the rate has fallen before the first metric and after each."""
    # Turned over, what should rise should fall, and one rule serves both.
    sign = -1.0 if rising else 1.0
    best, bad, cooling = np.inf, 0, 0
    counts[0] = 0
    for i in range(metrics.size):
        value = sign * metrics[i]
        if threshold_mode == 0:
            bound = best * (1 - sign * threshold)
        elif threshold_mode == 1 or best == np.inf:
            bound = best - threshold
        else:
            bound = best - threshold * abs(best)
        if value < bound:
            best, bad = value, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        counts[i + 1] = counts[i]
        if bad > patience:
            counts[i + 1] += 1
            cooling, bad = cooldown, 0


@compiled("void(float64, float64, float64, float64, float64[::1])")
def fall(rate: float, factor: float, least: float, eps: float, rates: Rates) -> None:
    """Write the rate that is left after no fall, one, two and so on."""
    for i in range(rates.size):
        rates[i] = rate
        lower = max(rate * factor, least)
        if rate - lower > eps:
            rate = lower
