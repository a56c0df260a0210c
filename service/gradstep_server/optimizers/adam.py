"""Adam and AdamW: one rule, with the decay inside or outside of the gradient."""

from __future__ import annotations

from abc import abstractmethod
from math import sqrt
from typing import ClassVar, Literal

from gradstep_server.kinds import Flag, Fraction, NonNegative, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.decay import decays

_REJECTS = (
    Reject({"lr": -0.1}, "lr"),
    Reject({"lr": False}, "lr"),
    Reject({"lr": float("inf")}, "lr"),
    Reject({"betas": [0.9]}, "betas"),
    Reject({"betas": [0.9, 1.0]}, "betas"),
    Reject({"betas": [-0.1, 0.999]}, "betas"),
    Reject({"eps": -1e-8}, "eps"),
    Reject({"weight_decay": -0.01}, "weight_decay"),
    Reject({"weight_decay": None}, "weight_decay"),
    Reject({"amsgrad": "yes"}, "amsgrad"),
    Reject({"momentum": 0.9}, "momentum"),
)


class AdamFamily(Optimizer):
    """What Adam and AdamW share."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """The decay rates β₁ and β₂ of the first and the second moment."""

    eps: NonNegative = 1e-8
    """Added to the denominator, after bias correction, to keep it from 0."""

    amsgrad: Flag = False
    """Divide by the largest second moment so far (Reddi et al., 2018)."""

    squares_gradient: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = frozenset({"amsgrad"})

    @abstractmethod
    def decays(self, lr: float) -> tuple[float, float]:
        """Return what to add to the gradient per θ, and what to multiply θ by."""

    def slots(self) -> tuple[str, ...]:
        """Return the moments, and their maximum for AMSGrad."""
        moments = ("exp_avg", "exp_avg_sq")
        return (*moments, "max_exp_avg_sq") if self.amsgrad else moments

    def rule(self) -> Rule:
        """Return the loop, with or without the maximum."""
        return amsgrad_step if self.amsgrad else adam_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are Adam's start
        """Return the rule's coefficients, the bias corrections of `step` included."""
        beta1, beta2 = self.betas
        l2, shrink = self.decays(lr)
        step_size = lr / (1 - beta1**step)
        correction = sqrt(1 - beta2**step)
        return (l2, shrink, beta1, 1 - beta1, beta2, 1 - beta2, step_size, correction, self.eps)


class Adam(AdamFamily):
    """Adaptive moment estimation, decay as L2 inside the gradient by default.

    Source: torch.optim.Adam; Kingma and Ba, "Adam: A Method for Stochastic
    Optimization", 2014.
    """

    type: Literal["Adam"] = "Adam"

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay."""

    decoupled_weight_decay: Flag = False
    """Decay the parameters themselves, as AdamW does, not through the gradient."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"m_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"v_t \leftarrow \beta_2 v_{t-1} + (1-\beta_2) g_t^2,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t \frac{m_t / (1-\beta_1^t)}"
        r"{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}"
    )
    torch_name = "torch.optim.Adam"
    examples = (
        {"lr": 1e-3},
        {"lr": 1e-3, "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 1e-2, "amsgrad": True, "maximize": True},
        {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 1e-2, "betas": [0, 0.5]},
    )
    rejects = _REJECTS

    def decays(self, lr: float) -> tuple[float, float]:
        """Return λ inside the gradient, or 1 − ηλ on the parameter."""
        return decays(self.weight_decay, lr, decoupled=self.decoupled_weight_decay)


class AdamW(AdamFamily):
    """Adam with decoupled weight decay.

    The decay multiplies the parameter by 1 − ηλ before the step, with the rate
    of this step. Source: torch.optim.AdamW; Loshchilov and Hutter, "Decoupled
    Weight Decay Regularization", 2017.
    """

    type: Literal["AdamW"] = "AdamW"

    weight_decay: NonNegative = 0.01
    """The coefficient λ of the decay."""

    formula = (
        r"m_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"v_t \leftarrow \beta_2 v_{t-1} + (1-\beta_2) g_t^2,\quad "
        r"\theta_t \leftarrow (1 - \eta_t\lambda)\theta_{t-1} - \eta_t "
        r"\frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}"
    )
    torch_name = "torch.optim.AdamW"
    examples = (
        {"lr": 1e-3, "weight_decay": 0.01},
        {"lr": 1e-3},
        {"lr": 1e-2, "betas": [0.5, 0.9], "weight_decay": 0.5, "amsgrad": True},
        {"lr": 1e-2, "maximize": True},
    )
    rejects = (*_REJECTS, Reject({"decoupled_weight_decay": False}, "decoupled_weight_decay"))

    def decays(self, lr: float) -> tuple[float, float]:
        """Return 1 − ηλ on the parameter."""
        return decays(self.weight_decay, lr, decoupled=True)


@compiled
def between(old: float, new: float, keep: float, take: float) -> float:
    """Return keep·old + take·new, where keep + take = 1, as torch's lerp does.

    Each branch is exact at its own end, so that β₁ = 0 leaves nothing of an old
    moment that is far larger than the gradient.
    """
    return old + take * (new - old) if take < keep else new - keep * (new - old)


@compiled
def adam_step(
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
    correction: float,
    eps: float,
) -> None:
    """θ ← (1 − ηλ)θ − η m̂ / (√v̂ + ε)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        m = between(exp_avg[i], d, beta1, one_minus_beta1)
        v = beta2 * exp_avg_sq[i] + one_minus_beta2 * d * d
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = shrink * p[i] - step_size * m / (sqrt(v) / correction + eps)


@compiled
def amsgrad_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    exp_avg_sq: FloatArray,
    max_exp_avg_sq: FloatArray,
    scale: float,
    bound: float,
    l2: float,
    shrink: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    step_size: float,
    correction: float,
    eps: float,
) -> None:
    """θ ← (1 − ηλ)θ − η m̂ / (√v̂max + ε); the maximum is of the uncorrected v."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        m = between(exp_avg[i], d, beta1, one_minus_beta1)
        v = beta2 * exp_avg_sq[i] + one_minus_beta2 * d * d
        v_max = max(max_exp_avg_sq[i], v)
        exp_avg[i] = m
        exp_avg_sq[i] = v
        max_exp_avg_sq[i] = v_max
        p[i] = shrink * p[i] - step_size * m / (sqrt(v_max) / correction + eps)
