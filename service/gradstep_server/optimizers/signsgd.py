"""SignSGD, and with momentum Signum: the sign of the gradient only."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import Flag, Fraction, NonNegative, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.decay import decays


class SignSGD(Optimizer):
    """Steps every element by the rate, along the sign of its gradient or momentum.

    With momentum it is the paper's Signum. Source: Bernstein et al., "signSGD:
    Compressed Optimisation for Non-Convex Problems", 2018.
    """

    type: Literal["SignSGD"] = "SignSGD"

    momentum: Fraction = 0.0
    """The momentum factor β: the sign is that of a running mean; 0 keeps no state."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay."""

    decoupled_weight_decay: Flag = False
    """Decay the parameters themselves, as AdamW does, not through the gradient."""

    formula = (
        r"g_t \leftarrow \nabla f_t(\theta_{t-1}) + \lambda\theta_{t-1},\quad "
        r"m_t \leftarrow \beta m_{t-1} + (1-\beta) g_t,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \eta_t \operatorname{sign}(m_t)"
    )
    torch_name = ""
    reference = "optax.signum"
    examples = (
        {"lr": 1e-3, "momentum": 0.9},
        {"lr": 1e-3},
        {"lr": 1e-2, "momentum": 0.3, "weight_decay": 0.1},
        {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"momentum": 1.0}, "momentum"),
        Reject({"momentum": -0.1}, "momentum"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"decoupled_weight_decay": 1}, "decoupled_weight_decay"),
        Reject({"nesterov": False}, "nesterov"),
    )
    squares_gradient = False
    late_slots = frozenset({"momentum_buffer"})

    def slots(self) -> tuple[str, ...]:
        """Return the momentum buffer, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def rule(self) -> Rule:
        """Return the loop with a buffer, or the one without."""
        return signum_step if self.momentum else sign_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are its start, and it forgets its age
        """Return the rule's coefficients."""
        l2, shrink = decays(self.weight_decay, lr, decoupled=self.decoupled_weight_decay)
        means = (self.momentum, 1 - self.momentum) if self.momentum else ()
        return (l2, shrink, *means, lr)


@compiled
def sign_step(
    p: FloatArray,
    g: FloatArray,
    scale: float,
    bound: float,
    l2: float,
    shrink: float,
    lr: float,
) -> None:
    """θ ← (1 − ηλ)θ − η sign(g)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        p[i] = shrink * p[i] - lr * np.sign(d)


@compiled
def signum_step(
    p: FloatArray,
    g: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    l2: float,
    shrink: float,
    momentum: float,
    one_minus_momentum: float,
    lr: float,
) -> None:
    """θ ← (1 − ηλ)θ − η sign(m), where m ← βm + (1 − β)g."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        m = momentum * momentum_buffer[i] + one_minus_momentum * d
        momentum_buffer[i] = m
        p[i] = shrink * p[i] - lr * np.sign(m)
