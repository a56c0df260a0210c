"""RMSprop, with optional momentum and centring."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from gradstep_server.kinds import Flag, NonNegative, Real, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class RMSprop(Optimizer):
    """Divides the gradient by a running root mean square of itself.

    Source: torch.optim.RMSprop; Tieleman and Hinton, "Lecture 6.5: rmsprop",
    2012; centred as in Graves, "Generating Sequences With Recurrent Neural
    Networks", 2013. The variance of a centred gradient is at least 0 here; in
    torch rounding leads below it where gradients hardly change, and the element
    is NaN from then on.
    """

    type: Literal["RMSprop"] = "RMSprop"

    lr: NonNegative = 1e-2
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    alpha: Annotated[Real, Field(ge=0, le=1)] = 0.99
    """The decay rate α of the mean square, and of the mean."""

    eps: NonNegative = 1e-8
    """Added to the root, to keep the denominator from 0."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    momentum: NonNegative = 0.0
    """The momentum factor μ; 0 keeps no buffer."""

    centered: Flag = False
    """Divide by the standard deviation instead: subtract the squared mean."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"v_t \leftarrow \alpha v_{t-1} + (1-\alpha) g_t^2,\quad "
        r"\bar g_t \leftarrow \alpha \bar g_{t-1} + (1-\alpha) g_t,\quad "
        r"b_t \leftarrow \mu b_{t-1} + \frac{g_t}{\sqrt{v_t - c\,\bar g_t^2} + \epsilon},\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t b_t,\quad "
        r"c = 1 \text{ if centered, else } 0"
    )
    torch_name = "torch.optim.RMSprop"
    examples = (
        {"lr": 1e-2},
        {"lr": 1e-3, "alpha": 0.9, "momentum": 0.9},
        {"lr": 1e-3, "alpha": 0.5, "centered": True, "weight_decay": 0.1},
        {"lr": 1e-3, "centered": True, "momentum": 0.5, "maximize": True},
        {"lr": 1e-4, "alpha": 0, "eps": 1e-3},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"alpha": -0.1}, "alpha"),
        Reject({"alpha": 1.1}, "alpha"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"momentum": -0.9}, "momentum"),
        Reject({"momentum": True}, "momentum"),
        Reject({"weight_decay": -0.1}, "weight_decay"),
        Reject({"centered": 1}, "centered"),
        Reject({"centered": True, "alpha": 0}, "centered"),
        Reject({"betas": [0.9, 0.99]}, "betas"),
    )
    squares_gradient = True
    late_slots = frozenset({"momentum_buffer"})
    fixed = frozenset({"centered"})

    @field_validator("centered")
    @classmethod
    def _centered_needs_a_mean(cls, centered: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if centered and info.data.get("alpha") == 0:
            raise ValueError("the variance is always 0 where alpha is 0")
        return centered

    def slots(self) -> tuple[str, ...]:
        """Return the mean square, the mean if centred, the buffer if there is momentum."""
        means = ("square_avg", "grad_avg") if self.centered else ("square_avg",)
        return (*means, "momentum_buffer") if self.momentum else means

    def rule(self) -> Rule:
        """Return the loop over the slots that there are."""
        if self.centered:
            return centered_momentum_step if self.momentum else centered_step
        return momentum_step if self.momentum else plain_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start, and it forgets its age
        """Return the rule's coefficients; 0 is where a centred variance ends."""
        decay = (self.weight_decay, self.alpha, 1 - self.alpha, self.eps)
        least = (0.0,) if self.centered else ()
        momentum = (self.momentum,) if self.momentum else ()
        return (*decay, *least, *momentum, lr)


@compiled
def plain_step(
    p: FloatArray,
    g: FloatArray,
    square_avg: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    alpha: float,
    one_minus_alpha: float,
    eps: float,
    lr: float,
) -> None:
    """θ ← θ − ηg / (√v + ε)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        v = alpha * square_avg[i] + one_minus_alpha * d * d
        square_avg[i] = v
        p[i] -= lr * d / (sqrt(v) + eps)


@compiled
def momentum_step(
    p: FloatArray,
    g: FloatArray,
    square_avg: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    alpha: float,
    one_minus_alpha: float,
    eps: float,
    momentum: float,
    lr: float,
) -> None:
    """Do b ← μb + g / (√v + ε), then θ ← θ − ηb."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        v = alpha * square_avg[i] + one_minus_alpha * d * d
        b = momentum * momentum_buffer[i] + d / (sqrt(v) + eps)
        square_avg[i] = v
        momentum_buffer[i] = b
        p[i] -= lr * b


@compiled
def centered_step(
    p: FloatArray,
    g: FloatArray,
    square_avg: FloatArray,
    grad_avg: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    alpha: float,
    one_minus_alpha: float,
    eps: float,
    least: float,
    lr: float,
) -> None:
    """θ ← θ − ηg / (√(v − ḡ²) + ε)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        v = alpha * square_avg[i] + one_minus_alpha * d * d
        mean = between(grad_avg[i], d, alpha, one_minus_alpha)
        square_avg[i] = v
        grad_avg[i] = mean
        p[i] -= lr * d / (sqrt(max(v - mean * mean, least)) + eps)


@compiled
def centered_momentum_step(
    p: FloatArray,
    g: FloatArray,
    square_avg: FloatArray,
    grad_avg: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    alpha: float,
    one_minus_alpha: float,
    eps: float,
    least: float,
    momentum: float,
    lr: float,
) -> None:
    """Do b ← μb + g / (√(v − ḡ²) + ε), then θ ← θ − ηb."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        v = alpha * square_avg[i] + one_minus_alpha * d * d
        mean = between(grad_avg[i], d, alpha, one_minus_alpha)
        b = momentum * momentum_buffer[i] + d / (sqrt(max(v - mean * mean, least)) + eps)
        square_avg[i] = v
        grad_avg[i] = mean
        momentum_buffer[i] = b
        p[i] -= lr * b
