"""ReduceLROnPlateau: the rate falls when a measured value stops improving."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from gradstep_server.kinds import Count, Fraction, NonNegative, Reject
from gradstep_server.schedulers.base import Metrics, Rates, Schedule, Steps, Unmeasured
from gradstep_server.schedulers.compiled import compiled
from gradstep_server.schedulers.followed import Followed

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

    def follow(self, before: Followed, metrics: Metrics) -> Followed:
        """Return what is kept after more was measured."""
        best = np.inf if before.best is None else self._sign * before.best
        carried = np.array([best, before.bad, before.cooling])
        fell = np.empty(metrics.size, dtype=np.bool_)
        take_metrics(
            self._sign * np.ascontiguousarray(metrics, dtype=np.float64),
            # A share is added to the best value where a higher one is better.
            self._sign * self.threshold if self.threshold_mode == "rel" else self.threshold,
            _THRESHOLD_MODES.index(self.threshold_mode),
            self.patience,
            self.cooldown,
            carried,
            fell,
        )
        falls = before.measured + 1 + np.flatnonzero(fell)
        return Followed(
            measured=before.measured + metrics.size,
            best=float(self._sign * carried[0]) if math.isfinite(carried[0]) else None,
            bad=int(carried[1]),
            cooling=int(carried[2]),
            falls=(*before.falls, *falls.tolist()),
        )

    def counted(self, t: Steps, followed: Followed | None) -> Steps:
        """Return how often the rate has fallen before each t.

        Raises:
            Unmeasured: nothing is followed, not even no measurement yet.
        """
        if followed is None:
            raise Unmeasured(int(t.min(initial=0)))
        return np.searchsorted(followed.falls_array, t, side="right")

    @property
    def _sign(self) -> float:
        """What turns values over so that lower ones are better, and one rule serves both modes."""
        return -1.0 if self.mode == "max" else 1.0

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate after it has fallen t times."""
        rates = np.empty(int(t.max(initial=0)) + 1)
        fall(base_lr, self.factor, self.min_lr, self.eps, rates)
        return rates[t]


@compiled("void(float64[::1], float64, int64, int64, int64, float64[::1], boolean[::1])")
def take_metrics(
    metrics: Metrics,
    threshold: float,
    threshold_mode: int,
    patience: int,
    cooldown: int,
    carried: NDArray[np.float64],
    fell: NDArray[np.bool_],
) -> None:
    """Write whether the rate falls after each metric.

    `carried` holds the best value, the bad ones in a row and the cooldown that is
    left, before the first metric and, in the end, after the last.
    """
    best, bad, cooling = carried
    for i in range(metrics.size):
        value = metrics[i]
        if threshold_mode == 0:
            bound = best * (1 - threshold)
        elif threshold_mode == 1 or best == np.inf:
            bound = best - threshold
        else:
            bound = best - threshold * abs(best)
        if value < bound:
            best, bad = value, 0.0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0.0
        fell[i] = bad > patience
        if fell[i]:
            cooling, bad = float(cooldown), 0.0
    carried[0], carried[1], carried[2] = best, bad, cooling


@compiled("void(float64, float64, float64, float64, float64[::1])")
def fall(rate: float, factor: float, least: float, eps: float, rates: Rates) -> None:
    """Write the rate that is left after no fall, one, two and so on."""
    for i in range(rates.size):
        rates[i] = rate
        lower = max(rate * factor, least)
        if rate - lower > eps:
            rate = lower
