"""Adadelta: steps in the parameter's own unit."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field

from gradstep_server.kinds import NonNegative, Real, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class Adadelta(Optimizer):
    """Scales the gradient by the root mean square of past steps over that of gradients.

    Source: torch.optim.Adadelta; Zeiler, "ADADELTA: An Adaptive Learning Rate
    Method", 2012, which has no rate: it is 1 there.
    """

    type: Literal["Adadelta"] = "Adadelta"

    lr: NonNegative = 1.0
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    rho: Annotated[Real, Field(ge=0, le=1)] = 0.9
    """The decay rate ρ of both mean squares."""

    eps: NonNegative = 1e-6
    """Added to both mean squares, below the roots; it decides how large first steps are."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"v_t \leftarrow \rho v_{t-1} + (1-\rho) g_t^2,\quad "
        r"\Delta_t \leftarrow \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t,\quad "
        r"u_t \leftarrow \rho u_{t-1} + (1-\rho) \Delta_t^2,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t \Delta_t"
    )
    torch_name = "torch.optim.Adadelta"
    examples = (
        {"lr": 1.0},
        {"lr": 0.5, "rho": 0.95, "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.1, "rho": 0, "maximize": True},
        {"lr": 0.01, "rho": 1},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"rho": -0.1}, "rho"),
        Reject({"rho": 1.1}, "rho"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"weight_decay": -0.1}, "weight_decay"),
        Reject({"momentum": 0.9}, "momentum"),
    )
    squares_gradient = True

    def slots(self) -> tuple[str, ...]:
        """Return the mean squares of gradients and of steps."""
        return ("square_avg", "acc_delta")

    def rule(self) -> Rule:
        """Return the loop."""
        return adadelta_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start, and it forgets its age
        """Return the rule's coefficients."""
        return (self.weight_decay, self.rho, 1 - self.rho, self.eps, lr)


@compiled
def adadelta_step(
    p: FloatArray,
    g: FloatArray,
    square_avg: FloatArray,
    acc_delta: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    rho: float,
    one_minus_rho: float,
    eps: float,
    lr: float,
) -> None:
    """θ ← θ − ηΔ, where Δ = g √(u + ε) / √(v + ε)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        v = rho * square_avg[i] + one_minus_rho * d * d
        u = acc_delta[i]
        delta = sqrt(u + eps) / sqrt(v + eps) * d
        square_avg[i] = v
        acc_delta[i] = rho * u + one_minus_rho * delta * delta
        p[i] -= lr * delta
