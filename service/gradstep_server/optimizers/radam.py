"""RAdam: Adam that waits for its second moment to be known."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from gradstep_server.kinds import Flag, Fraction, NonNegative, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.decay import decays

_TRUSTED = 5.0
"""The length of the average above which the second moment is used; the paper has 4."""


class RAdam(Optimizer):
    """Adam whose adaptive step is rectified, and left out while it varies too much.

    Source: torch.optim.RAdam; Liu et al., "On the Variance of the Adaptive
    Learning Rate and Beyond", 2019.
    """

    type: Literal["RAdam"] = "RAdam"

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """The decay rates β₁ and β₂ of the first and the second moment."""

    eps: NonNegative = 1e-8
    """Added to the root of the second moment, before bias correction, to keep it from 0."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay."""

    decoupled_weight_decay: Flag = False
    """Decay the parameters themselves, as AdamW does, not through the gradient."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"m_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"v_t \leftarrow \beta_2 v_{t-1} + (1-\beta_2) g_t^2,\quad "
        r"\rho_\infty = \frac{2}{1-\beta_2} - 1,\quad "
        r"\rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t},\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t \frac{m_t}{1-\beta_1^t} \cdot "
        r"\begin{cases} \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}"
        r"{(\rho_\infty-4)(\rho_\infty-2)\rho_t}} \cdot "
        r"\frac{\sqrt{1-\beta_2^t}}{\sqrt{v_t} + \epsilon} & \rho_t > 5 \\ 1 & \text{else} "
        r"\end{cases}"
    )
    torch_name = "torch.optim.RAdam"
    examples = (
        {"lr": 1e-3},
        {"lr": 1e-2, "betas": [0.8, 0.99], "weight_decay": 0.1},
        {"lr": 1e-2, "betas": [0.9, 0.9], "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 1e-2, "betas": [0, 0.5], "eps": 1e-3, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"betas": [0.9]}, "betas"),
        Reject({"betas": [1.0, 0.999]}, "betas"),
        Reject({"betas": [0.9, -0.1]}, "betas"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"decoupled_weight_decay": 0}, "decoupled_weight_decay"),
        Reject({"amsgrad": False}, "amsgrad"),
    )
    squares_gradient = True

    def slots(self) -> tuple[str, ...]:
        """Return the moments."""
        return ("exp_avg", "exp_avg_sq")

    def rule(self) -> Rule:
        """Return the loop."""
        return radam_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start
        """Return the rule's coefficients, bias corrections and rectification included.

        The denominator is `adaptive` · (√v + ε) + `plain`, of which one is 1 and
        the other 0.
        """
        beta1, beta2 = self.betas
        l2, shrink = decays(self.weight_decay, lr, decoupled=self.decoupled_weight_decay)
        moments = (l2, shrink, beta1, 1 - beta1, beta2, 1 - beta2)
        step_size = lr / (1 - beta1**step)
        longest = 2 / (1 - beta2) - 1
        correction = 1 - beta2**step
        length = longest - 2 * step * beta2**step / correction
        if length <= _TRUSTED:
            return (*moments, step_size, 0.0, 1.0, self.eps)
        variance = (length - 4) * (length - 2) * longest
        rectified = sqrt(variance / ((longest - 4) * (longest - 2) * length))
        return (*moments, step_size * rectified * sqrt(correction), 1.0, 0.0, self.eps)


@compiled
def radam_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    exp_avg_sq: FloatArray,
    scale: float,
    bound: float,
    l2: float,
    shrink: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    step_size: float,
    adaptive: float,
    plain: float,
    eps: float,
) -> None:
    """θ ← (1 − ηλ)θ − η r m̂ / (√v̂ + ε), or without the denominator."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        m = between(exp_avg[i], d, beta1, one_minus_beta1)
        v = beta2 * exp_avg_sq[i] + one_minus_beta2 * d * d
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = shrink * p[i] - step_size * m / (adaptive * (sqrt(v) + eps) + plain)
