"""LARS: momentum whose gradient is scaled to the length of each tensor."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import numpy as np
from pydantic import ValidationInfo, field_validator

from gradstep_server.kinds import Flag, NonNegative, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.whole import LANES, like, norm, total, wide


class LARS(Optimizer):
    """SGD for large batches: each tensor's gradient is scaled to the tensor's norm.

    The local rate is that of the paper, with the norms of the gradient and of
    the decay added up, and 1 where the norm of the parameter or of the gradient
    is 0. The rate stands outside of the buffer, as in torch's SGD, or inside as
    in the paper. Source: You et al., "Large Batch Training of Convolutional
    Networks", 2017; without decay the numbers of optax.lars.
    """

    type: Literal["LARS"] = "LARS"

    momentum: NonNegative = 0.9
    """The momentum factor μ."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient λ: λθ is added to the gradient."""

    trust_coefficient: NonNegative = 1e-3
    """The coefficient κ of the local rate."""

    eps: NonNegative = 0.0
    """Added to the denominator of the local rate."""

    momentum_style: Literal["torch", "classical"] = "torch"
    """Where the rate stands: `torch` applies it to the buffer, `classical` keeps it
    inside, as the paper does. They differ as soon as a schedule moves the rate."""

    nesterov: Flag = False
    """Look ahead along the updated buffer; needs momentum."""

    formula = (
        r"u_t \leftarrow \frac{\kappa\lVert\theta_{t-1}\rVert}"
        r"{\lVert g_t \rVert + \lambda\lVert\theta_{t-1}\rVert + \epsilon}"
        r"(g_t + \lambda\theta_{t-1}),\quad "
        r"m_t \leftarrow \mu m_{t-1} + u_t,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t m_t"
    )
    torch_name = ""
    reference = "optax.lars"
    examples = (
        {"lr": 1.0, "weight_decay": 1e-4},
        {"lr": 1.0, "momentum": 0.5, "trust_coefficient": 0.1, "nesterov": True},
        {"lr": 1.0, "momentum_style": "classical", "trust_coefficient": 0.1},
        {"lr": 1.0, "momentum": 0.0, "trust_coefficient": 0.1, "eps": 1e-3, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"momentum": -0.9}, "momentum"),
        Reject({"weight_decay": -0.1}, "weight_decay"),
        Reject({"trust_coefficient": -0.1}, "trust_coefficient"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"nesterov": True, "momentum": 0}, "nesterov"),
        Reject({"momentum_style": "heavy"}, "momentum_style"),
        Reject({"dampening": 0.1}, "dampening"),
    )
    squares_gradient = True
    whole = True
    fixed = frozenset({"momentum_style"})

    @field_validator("nesterov")
    @classmethod
    def _nesterov_needs_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("Nesterov momentum requires a momentum")
        return nesterov

    def slots(self) -> tuple[str, ...]:
        """Return the momentum buffer."""
        return ("momentum_buffer",)

    def rule(self) -> Rule:
        """Return the loop."""
        return lars_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - LARS forgets its age
        """Return the rule's coefficients."""
        inside, outside = (lr, 1.0) if self.momentum_style == "classical" else (1.0, lr)
        ahead, along = (1.0, self.momentum) if self.nesterov else (0.0, 1.0)
        trust = (self.weight_decay, self.trust_coefficient, self.eps)
        return (*trust, self.momentum, inside, ahead, along, outside)


@compiled
def lars_step(
    p: FloatArray,
    g: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    momentum: float,
    inside: float,
    ahead: float,
    along: float,
    outside: float,
) -> None:
    """Do m ← μm + κ‖θ‖ / (‖g‖ + λ‖θ‖ + ε) · (g + λθ), then θ ← θ − ηm."""
    theta, grad, buffer = p.ravel(), g.ravel(), momentum_buffer.ravel()
    lanes = np.zeros(min(LANES, grad.size))
    for start in range(0, grad.size, LANES):
        block = grad[start : start + LANES]
        for i in range(block.size):
            d = wide(clip(block[i], scale, bound))
            lanes[i] += d * d
    of_theta, of_grad = norm(theta), sqrt(total(lanes))
    trust = 1.0
    if of_theta > 0 and of_grad > 0:
        trust = trust_coefficient * of_theta / (of_grad + weight_decay * of_theta + eps)
    local = like(p, trust * inside)
    for i in range(theta.size):
        u = local * (clip(grad[i], scale, bound) + weight_decay * theta[i])
        m = momentum * buffer[i] + u
        buffer[i] = m
        theta[i] -= outside * (ahead * u + along * m)
