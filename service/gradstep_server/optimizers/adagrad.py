"""Adagrad: a rate for each element, lower the more it has moved."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class Adagrad(Optimizer):
    """Divides the gradient by the root of the sum of all its squares so far.

    Source: torch.optim.Adagrad; Duchi, Hazan and Singer, "Adaptive Subgradient
    Methods for Online Learning and Stochastic Optimization", 2011.
    """

    type: Literal["Adagrad"] = "Adagrad"

    lr: NonNegative = 1e-2
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    lr_decay: NonNegative = 0.0
    """How the rate falls by itself: at a tensor's step t it is η / (1 + (t − 1) · lr_decay)."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    initial_accumulator_value: NonNegative = 0.0
    """What the sum of squares starts with."""

    eps: NonNegative = 1e-10
    """Added to the root, to keep the denominator from 0."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"s_t \leftarrow s_{t-1} + g_t^2,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \frac{\eta_t}{1 + (t-1)\,\eta_\lambda} "
        r"\frac{g_t}{\sqrt{s_t} + \epsilon},\quad \eta_\lambda = \text{lr\_decay}"
    )
    torch_name = "torch.optim.Adagrad"
    examples = (
        {"lr": 1e-2},
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "initial_accumulator_value": 0.1, "maximize": True},
        {"lr": 0.05, "initial_accumulator_value": 2, "lr_decay": 1e-3, "eps": 1e-3},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"lr_decay": -0.1}, "lr_decay"),
        Reject({"weight_decay": -0.1}, "weight_decay"),
        Reject({"initial_accumulator_value": -0.1}, "initial_accumulator_value"),
        Reject({"initial_accumulator_value": "0"}, "initial_accumulator_value"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"momentum": 0.9}, "momentum"),
    )
    squares_gradient = True
    fixed = frozenset({"initial_accumulator_value"})

    def slots(self) -> tuple[str, ...]:
        """Return the sum of squares."""
        return ("sum",)

    def rule(self) -> Rule:
        """Return the loop."""
        return adagrad_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:
        """Return the rule's coefficients; to a fresh sum its initial value is added."""
        initial = self.initial_accumulator_value if fresh else 0.0
        return (self.weight_decay, initial, self.eps, lr / (1 + (step - 1) * self.lr_decay))


@compiled
def adagrad_step(
    p: FloatArray,
    g: FloatArray,
    sum_: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    initial: float,
    eps: float,
    step_size: float,
) -> None:
    """θ ← θ − ηg / (√s + ε), where s ← s + g²."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        s = sum_[i] + initial + d * d
        sum_[i] = s
        p[i] -= step_size * d / (sqrt(s) + eps)
