"""LAMB: Adam whose step of each tensor is as long as the tensor."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np

from gradstep_server.kinds import Fraction, NonNegative, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.whole import LANES, like, norm, total, wide


class LAMB(Optimizer):
    """Adam for large batches: each tensor's step is scaled to the tensor's norm.

    The variant with bias correction, decoupled decay inside the norm, no bounds
    on the norms, and a trust ratio of 1 where a norm is 0. Source: You et al.,
    "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
    2019; the numbers of optax.lamb.
    """

    type: Literal["LAMB"] = "LAMB"

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """The decay rates β₁ and β₂ of the first and the second moment."""

    eps: NonNegative = 1e-6
    """Added to the denominator, after bias correction, to keep it from 0."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay, which the trust ratio scales, too."""

    formula = (
        r"r_t \leftarrow \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} "
        r"+ \lambda\theta_{t-1},\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t "
        r"\frac{\lVert\theta_{t-1}\rVert}{\lVert r_t \rVert} r_t"
    )
    torch_name = ""
    reference = "optax.lamb"
    examples = (
        {"lr": 1e-3, "weight_decay": 0.01},
        {"lr": 1e-2, "betas": [0.8, 0.99], "eps": 1e-8},
        {"lr": 1e-2, "weight_decay": 0.1, "maximize": True},
        {"lr": 1e-2, "betas": [0, 0.5]},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"betas": [0.9, 1.0]}, "betas"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"trust_coefficient": 0.1}, "trust_coefficient"),
    )
    squares_gradient = True
    whole = True

    def slots(self) -> tuple[str, ...]:
        """Return the moments."""
        return ("exp_avg", "exp_avg_sq")

    def rule(self) -> Rule:
        """Return the loop."""
        return lamb_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are LAMB's start
        """Return the rule's coefficients, the bias corrections of `step` included."""
        beta1, beta2 = self.betas
        moments = (beta1, 1 - beta1, beta2, 1 - beta2)
        corrections = (1 / (1 - beta1**step), sqrt(1 - beta2**step))
        return (lr, self.weight_decay, *moments, *corrections, self.eps)


@compiled
def direction(
    p: float, m: float, v: float, weight_decay: float, grow: float, correction: float, eps: float
) -> float:
    """Return m̂ / (√v̂ + ε) + λθ."""
    return grow * m / (sqrt(v) / correction + eps) + weight_decay * p


@compiled
def lamb_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    exp_avg_sq: FloatArray,
    scale: float,
    bound: float,
    lr: float,
    weight_decay: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    grow: float,
    correction: float,
    eps: float,
) -> None:
    """θ ← θ − η(‖θ‖ / ‖r‖)r, where r = m̂ / (√v̂ + ε) + λθ."""
    theta, grad, first, second = p.ravel(), g.ravel(), exp_avg.ravel(), exp_avg_sq.ravel()
    lanes = np.zeros(min(LANES, theta.size))
    for start in range(0, theta.size, LANES):
        stop = start + LANES
        t, d, m, v = theta[start:stop], grad[start:stop], first[start:stop], second[start:stop]
        for i in range(t.size):
            x = clip(d[i], scale, bound)
            m[i] = between(m[i], x, beta1, one_minus_beta1)
            v[i] = beta2 * v[i] + one_minus_beta2 * x * x
            r = wide(direction(t[i], m[i], v[i], weight_decay, grow, correction, eps))
            lanes[i] += r * r
    squares = total(lanes)
    length = norm(theta)
    trust = length / sqrt(squares) if length > 0 and squares > 0 else 1.0
    rate = like(p, lr * trust)
    for i in range(theta.size):
        r = direction(theta[i], first[i], second[i], weight_decay, grow, correction, eps)
        theta[i] -= rate * r
