"""Rprop: a step size for each element, of which the gradient decides the direction only."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from gradstep_server.kinds import NonNegative, Positive, Real, Reject
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled

_Shrink = Annotated[Real, Field(gt=0, lt=1)]
_Grow = Annotated[Real, Field(gt=1)]


def _ordered(sizes: tuple[float, float]) -> tuple[float, float]:
    if sizes[0] > sizes[1]:
        raise ValueError("the smallest step size must not be above the largest")
    return sizes


class Rprop(Optimizer):
    """Resilient backpropagation: every element has a step size that grows or shrinks.

    It grows while the gradient keeps its sign and shrinks when that changes, in
    which case the element takes no step. Gradients are to be those of all data,
    not of batches. Source: torch.optim.Rprop; Riedmiller and Braun, "A direct
    adaptive method for faster backpropagation learning: the RPROP algorithm",
    1993.
    """

    type: Literal["Rprop"] = "Rprop"

    lr: NonNegative = 1e-2
    """The step size that elements start from: the rate at a tensor's first step. Later rates,
    a schedule's among them, change nothing."""

    etas: tuple[_Shrink, _Grow] = (0.5, 1.2)
    """What a step size is multiplied by when the sign changes, η⁻, and when it stays, η⁺."""

    step_sizes: Annotated[tuple[NonNegative, Positive], AfterValidator(_ordered)] = (1e-6, 50.0)
    """The smallest and the largest step size."""

    formula = (
        r"s_t \leftarrow \min(\max(s_{t-1} \cdot \eta^\pm, s_{\min}), s_{\max}),\quad "
        r"\eta^\pm = \eta^+ \text{ if } g_t g_{t-1} > 0,\ \eta^- \text{ if } g_t g_{t-1} < 0,\ "
        r"\text{else } 1,\quad "
        r"g_t \leftarrow 0 \text{ if } g_t g_{t-1} < 0,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \operatorname{sign}(g_t)\, s_t,\quad s_0 = \eta_1"
    )
    torch_name = "torch.optim.Rprop"
    examples = (
        {"lr": 1e-2},
        {"lr": 0.1, "etas": [0.8, 1.5], "step_sizes": [1e-3, 0.5]},
        {"lr": 0.1, "step_sizes": [0, 1], "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"etas": [0, 1.2]}, "etas"),
        Reject({"etas": [1.0, 1.2]}, "etas"),
        Reject({"etas": [0.5, 1.0]}, "etas"),
        Reject({"etas": [0.5]}, "etas"),
        Reject({"step_sizes": [2.0, 1.0]}, "step_sizes"),
        Reject({"step_sizes": [-1.0, 1.0]}, "step_sizes"),
        Reject({"step_sizes": [0, 0]}, "step_sizes"),
        Reject({"weight_decay": 0.1}, "weight_decay"),
    )
    squares_gradient = False

    def slots(self) -> tuple[str, ...]:
        """Return the gradient of the step before, and the step sizes."""
        return ("prev", "step_size")

    def rule(self) -> Rule:
        """Return the loop."""
        return rprop_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - Rprop forgets its age
        """Return the rule's coefficients; to fresh step sizes the rate is added."""
        return (lr if fresh else 0.0, *self.etas, *self.step_sizes)


@compiled
def rprop_step(
    p: FloatArray,
    g: FloatArray,
    prev: FloatArray,
    step_size: FloatArray,
    scale: float,
    bound: float,
    initial: float,
    shrink: float,
    grow: float,
    smallest: float,
    largest: float,
) -> None:
    """θ ← θ − sign(g) s, where s grows, shrinks or stays by the sign of g · prev."""
    for i in range(p.size):
        d = clip(g[i], scale, bound)
        s = step_size[i] + initial
        turn = d * prev[i]
        s = s * grow if turn > 0 else (s * shrink if turn < 0 else s)
        s = min(max(s, smallest), largest)
        d = d - d if turn < 0 else d
        step_size[i] = s
        prev[i] = d
        p[i] -= np.sign(d) * s
