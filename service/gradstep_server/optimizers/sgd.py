"""SGD with momentum, dampening, L2 decay and Nesterov's look-ahead."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from gradstep_server.kinds import Flag, NonNegative, Real, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class SGD(Optimizer):
    """Stochastic gradient descent, with optional momentum.

    The first step with momentum fills the buffer with the undamped gradient,
    as torch does. Source: torch.optim.SGD; Sutskever et al., "On the importance
    of initialization and momentum in deep learning", 2013.
    """

    type: Literal["SGD"] = "SGD"

    momentum: NonNegative = 0.0
    """The momentum factor μ; 0 keeps no state."""

    dampening: Real = 0.0
    """The share τ of the gradient that is kept out of the buffer."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    momentum_style: Literal["torch", "classical"] = "torch"
    """Where the rate stands: `torch` applies it to the buffer, m ← μm + g and
    θ ← θ − ηm; `classical` keeps it inside, m ← μm + ηg and θ ← θ − m, as in
    the AdamW paper. They differ as soon as a schedule moves the rate."""

    nesterov: Flag = False
    """Look ahead along the updated buffer; needs momentum and no dampening."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"m_t \leftarrow \mu m_{t-1} + (1-\tau) g_t,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t m_t"
    )
    torch_name = "torch.optim.SGD"
    examples = (
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        {"lr": 0.1},
        {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "maximize": True},
        {"lr": 0.01, "momentum": 0.9, "momentum_style": "classical"},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"lr": True}, "lr"),
        Reject({"lr": float("nan")}, "lr"),
        Reject({"momentum": -0.9}, "momentum"),
        Reject({"weight_decay": "0.1"}, "weight_decay"),
        Reject({"nesterov": True}, "nesterov"),
        Reject({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
        Reject({"nesterov": 1, "momentum": 0.9}, "nesterov"),
        Reject({"momentum_style": "heavy"}, "momentum_style"),
        Reject({"beta": 0.9}, "beta"),
    )
    squares_gradient = False
    late_slots = frozenset({"momentum_buffer"})
    fixed = frozenset({"momentum_style"})

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if nesterov and (info.data.get("momentum") == 0 or info.data.get("dampening") != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        return nesterov

    def slots(self) -> tuple[str, ...]:
        """Return the momentum buffer, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def rule(self) -> Rule:
        """Return the loop with a buffer, or the one without."""
        return momentum_step if self.momentum else plain_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - SGD forgets its age
        """Return the rule's coefficients; a fresh buffer takes the gradient undamped."""
        if not self.momentum:
            return (self.weight_decay, lr)
        keep, take = (0.0, 1.0) if fresh else (self.momentum, 1 - self.dampening)
        inside, outside = (lr, 1.0) if self.momentum_style == "classical" else (1.0, lr)
        ahead, along = (inside, self.momentum) if self.nesterov else (0.0, 1.0)
        return (self.weight_decay, keep, take * inside, ahead, along, outside)


@compiled
def plain_step(
    p: FloatArray, g: FloatArray, scale: float, bound: float, weight_decay: float, lr: float
) -> None:
    """θ ← θ − η(g + λθ)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        p[i] -= lr * d


@compiled
def momentum_step(
    p: FloatArray,
    g: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    keep: float,
    take: float,
    ahead: float,
    along: float,
    outside: float,
) -> None:
    """Do m ← μm + (1 − τ)g, then θ ← θ − ηm; with Nesterov θ ← θ − η(g + μm)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        m = keep * momentum_buffer[i] + take * d
        momentum_buffer[i] = m
        p[i] -= outside * (ahead * d + along * m)
