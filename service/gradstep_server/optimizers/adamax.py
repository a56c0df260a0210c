"""Adamax: Adam with the infinity norm in place of the second moment."""

from __future__ import annotations

from typing import Literal

from gradstep_server.kinds import Fraction, NonNegative, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class Adamax(Optimizer):
    """Adam that divides by the largest recent gradient instead of a root mean square.

    As in torch, ε is added to the gradient's magnitude, before the maximum is
    taken. Source: torch.optim.Adamax; Kingma and Ba, "Adam: A Method for
    Stochastic Optimization", 2014.
    """

    type: Literal["Adamax"] = "Adamax"

    lr: NonNegative = 2e-3
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """The decay rates β₁ of the first moment and β₂ of the infinity norm."""

    eps: NonNegative = 1e-8
    """Added to the gradient's magnitude, to keep the denominator from 0."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"m_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"u_t \leftarrow \max(\beta_2 u_{t-1}, |g_t| + \epsilon),\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \frac{\eta_t}{1-\beta_1^t} \frac{m_t}{u_t}"
    )
    torch_name = "torch.optim.Adamax"
    examples = (
        {"lr": 2e-3},
        {"lr": 1e-2, "betas": [0.8, 0.9], "weight_decay": 0.1},
        {"lr": 1e-2, "betas": [0, 0.5], "eps": 0.1, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"betas": [0.9]}, "betas"),
        Reject({"betas": [1.0, 0.999]}, "betas"),
        Reject({"betas": [0.9, 1]}, "betas"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"amsgrad": False}, "amsgrad"),
    )
    squares_gradient = False

    def slots(self) -> tuple[str, ...]:
        """Return the first moment and the infinity norm."""
        return ("exp_avg", "exp_inf")

    def rule(self) -> Rule:
        """Return the loop."""
        return adamax_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start
        """Return the rule's coefficients, the bias correction of `step` included."""
        beta1, beta2 = self.betas
        return (self.weight_decay, beta1, 1 - beta1, beta2, self.eps, lr / (1 - beta1**step))


@compiled
def adamax_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    exp_inf: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    eps: float,
    step_size: float,
) -> None:
    """θ ← θ − η m̂ / u, where u ← max(β₂u, |g| + ε)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        m = between(exp_avg[i], d, beta1, one_minus_beta1)
        u = max(beta2 * exp_inf[i], abs(d) + eps)
        exp_avg[i] = m
        exp_inf[i] = u
        p[i] -= step_size * m / u
