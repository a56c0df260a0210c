"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import Fraction, NonNegative, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.decay import decays


class Lion(Optimizer):
    """Steps every element by the rate, along the sign of a momentum and the gradient.

    The decay multiplies the parameter by 1 − ηλ before the step. Source: Chen
    et al., "Symbolic Discovery of Optimization Algorithms", 2023; rates are to
    be three to ten times smaller than AdamW's, and the decay larger by as much.
    """

    type: Literal["Lion"] = "Lion"

    lr: NonNegative = 1e-4
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """What the step keeps of the momentum, β₁, and what the momentum keeps of itself, β₂."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay."""

    formula = (
        r"c_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"\theta_t \leftarrow (1 - \eta_t\lambda)\theta_{t-1} "
        r"- \eta_t \operatorname{sign}(c_t),\quad "
        r"m_t \leftarrow \beta_2 m_{t-1} + (1-\beta_2) g_t"
    )
    torch_name = ""
    reference = "optax.lion"
    examples = (
        {"lr": 1e-4},
        {"lr": 1e-3, "betas": [0.95, 0.98], "weight_decay": 0.1},
        {"lr": 1e-2, "betas": [0, 0.5], "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"betas": [0.9]}, "betas"),
        Reject({"betas": [1.0, 0.99]}, "betas"),
        Reject({"betas": [0.9, -0.1]}, "betas"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"eps": 1e-8}, "eps"),
    )
    squares_gradient = False

    def slots(self) -> tuple[str, ...]:
        """Return the momentum."""
        return ("exp_avg",)

    def rule(self) -> Rule:
        """Return the loop."""
        return lion_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start, and it forgets its age
        """Return the rule's coefficients."""
        beta1, beta2 = self.betas
        _, shrink = decays(self.weight_decay, lr, decoupled=True)
        return (shrink, beta1, 1 - beta1, beta2, 1 - beta2, lr)


@compiled
def lion_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    scale: float,
    bound: float,
    shrink: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    lr: float,
) -> None:
    """θ ← (1 − ηλ)θ − η sign(β₁m + (1 − β₁)g), then m ← β₂m + (1 − β₂)g."""
    for i in range(p.size):
        d = clip(g[i], scale, bound)
        m = exp_avg[i]
        c = beta1 * m + one_minus_beta1 * d
        exp_avg[i] = beta2 * m + one_minus_beta2 * d
        p[i] = shrink * p[i] - lr * np.sign(c)
