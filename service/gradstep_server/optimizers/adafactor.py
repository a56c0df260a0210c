"""Adafactor: second moments of a matrix kept as one row and one column."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from gradstep_server.kinds import NonNegative, Real, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer, Shape
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.whole import LANES, like, norm, total, wide

_OF_DTYPE = -1.0
"""Stands for an ε₁ that is the dtype's own."""

_FLOAT32 = 4
"""Bytes of a float32."""


class Adafactor(Optimizer):
    """Adaptive steps with sublinear memory: second moments factored into rows and columns.

    Tensors of at least two axes are factored over their last two; others keep
    the whole `variance`. The step is torch's, which takes `lr` as the largest
    relative step. Source: torch.optim.Adafactor; Shazeer and Stern, "Adafactor:
    Adaptive Learning Rates with Sublinear Memory Cost", 2018.
    """

    type: Literal["Adafactor"] = "Adafactor"

    lr: NonNegative = 1e-2
    """The largest relative step η, which a schedule starts from, and the decay's rate."""

    beta2_decay: Annotated[Real, Field(le=0)] = -0.8
    """The power τ by which 1 − β₂ falls with the steps."""

    eps: tuple[NonNegative | None, NonNegative] = (None, 1e-3)
    """ε₁, below which the root of a second moment is not divided by (null: the machine
    epsilon of the masters), and ε₂, the least size of a parameter that steps go by."""

    d: Annotated[Real, Field(ge=1)] = 1.0
    """The root mean square above which an update is scaled down."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay, of the parameters themselves."""

    formula = (
        r"R_t \leftarrow (1 - t^\tau) R_{t-1} + t^\tau \overline{G_t^2}^{\,rows},\quad "
        r"C_t \leftarrow (1 - t^\tau) C_{t-1} + t^\tau \overline{G_t^2}^{\,columns},\quad "
        r"U_t \leftarrow \frac{G_t}{\max(\sqrt{R_t C_t / \overline{R_t}}, \epsilon_1)},\quad "
        r"\theta_t \leftarrow (1 - \eta_t\lambda)\theta_{t-1} - "
        r"\min(\eta_t, \tfrac{1}{\sqrt{t}}) \frac{\max(\epsilon_2, \mathrm{RMS}(\theta_{t-1}))}"
        r"{\max(1, \mathrm{RMS}(U_t) / d)} U_t"
    )
    torch_name = "torch.optim.Adafactor"
    examples = (
        {"lr": 1e-2},
        {"lr": 1.0, "beta2_decay": -0.5, "eps": [1e-8, 1e-2], "weight_decay": 0.1},
        {"lr": 1e-2, "d": 2.0, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"beta2_decay": 0.1}, "beta2_decay"),
        Reject({"eps": [-1e-8, 1e-3]}, "eps"),
        Reject({"eps": [None, None]}, "eps"),
        Reject({"eps": 1e-8}, "eps"),
        Reject({"d": 0.5}, "d"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"momentum": 0.9}, "momentum"),
    )
    squares_gradient = True
    whole = True

    def slots(self) -> tuple[str, ...]:
        """Return the factors, and what is kept instead where there is nothing to factor."""
        return ("row_var", "col_var", "variance")

    def slots_of(self, shape: Shape) -> Mapping[str, Shape]:
        """Return the factors of at least two axes, the variance of fewer."""
        if len(shape) > 1:
            *stack, rows, columns = shape
            return {"row_var": (*stack, rows, 1), "col_var": (*stack, 1, columns)}
        return {"variance": shape}

    def rule(self) -> Rule:
        """Return the loop over matrices."""
        return factored_step

    def rule_of(self, shape: Shape) -> Rule:
        """Return the loop over matrices, or the one over a vector."""
        return factored_step if len(shape) > 1 else vector_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are Adafactor's start
        """Return the rule's coefficients, the relative step among them."""
        eps1, eps2 = self.eps
        take: float = step**self.beta2_decay
        relative = min(lr, 1 / sqrt(step))
        floor = _OF_DTYPE if eps1 is None else eps1
        return (floor, eps2, self.d, relative, 1 - lr * self.weight_decay, 1 - take, take)


@compiled
def least(x: FloatArray, eps1: float) -> float:
    """Return ε₁, or the machine epsilon of an array where that stands for it."""
    own = 2.0**-23 if x.itemsize == _FLOAT32 else 2.0**-52
    return like(x, eps1 if eps1 >= 0 else own)


@compiled
def size_of_step(theta: FloatArray, eps2: float, relative: float) -> float:
    """Return ρ · max(ε₂, RMS(θ))."""
    return max(wide(eps2), norm(theta) / sqrt(theta.size)) * relative


@compiled
def factor(
    g: FloatArray,
    row_var: FloatArray,
    col_var: FloatArray,
    scale: float,
    bound: float,
    keep: float,
    take: float,
) -> float:
    """Take the squares of one matrix into its row and its column; return the mean of R."""
    rows, columns = g.shape
    by_column, of_row = np.zeros(columns), np.empty(columns)
    means = 0.0
    for i in range(rows):
        row = g[i]
        for j in range(columns):
            value = wide(clip(row[j], scale, bound))
            of_row[j] = value * value
            by_column[j] += of_row[j]
        row_var[i, 0] = between(row_var[i, 0], total(of_row) / columns, keep, take)
        means += wide(row_var[i, 0])
    for j in range(columns):
        col_var[0, j] = between(col_var[0, j], by_column[j] / rows, keep, take)
    mean: float = means / rows
    return mean


@compiled
def update(d: float, v: float, floor: float) -> float:
    """Return d / max(√v, ε₁)."""
    return d / sqrt(max(v, floor * floor))


@compiled
def factored_step(
    p: FloatArray,
    g: FloatArray,
    row_var: FloatArray,
    col_var: FloatArray,
    scale: float,
    bound: float,
    eps1: float,
    eps2: float,
    d: float,
    relative: float,
    shrink: float,
    keep: float,
    take: float,
) -> None:
    """θ ← (1 − ηλ)θ − αU / max(1, RMS(U) / d), where U = G / √(RC / R̄)."""
    if p.size == 0:
        return
    stack, rows, columns = p.shape
    alpha, floor = size_of_step(p.ravel(), eps2, relative), least(p, eps1)
    means = np.empty(stack, p.dtype)
    lanes = np.zeros(columns)
    for k in range(stack):
        mean = factor(g[k], row_var[k], col_var[k], scale, bound, keep, take)
        means[k] = max(mean, wide(floor))
        for i in range(rows):
            row, by_row, by_column = g[k, i], row_var[k, i, 0], col_var[k, 0]
            for j in range(columns):
                v = by_row * by_column[j] / means[k]
                u = wide(update(clip(row[j], scale, bound), v, floor))
                lanes[j] += u * u
    rate = like(p, alpha / max(1.0, sqrt(total(lanes) / p.size) / d))
    for k in range(stack):
        for i in range(rows):
            theta, row, by_row, by_column = p[k, i], g[k, i], row_var[k, i, 0], col_var[k, 0]
            for j in range(columns):
                v = by_row * by_column[j] / means[k]
                u = update(clip(row[j], scale, bound), v, floor)
                theta[j] = shrink * theta[j] - rate * u


@compiled
def vector_step(
    p: FloatArray,
    g: FloatArray,
    variance: FloatArray,
    scale: float,
    bound: float,
    eps1: float,
    eps2: float,
    d: float,
    relative: float,
    shrink: float,
    keep: float,
    take: float,
) -> None:
    """θ ← (1 − ηλ)θ − αU / max(1, RMS(U) / d), where U = G / √V."""
    theta, grad, kept = p.ravel(), g.ravel(), variance.ravel()
    if theta.size == 0:
        return
    alpha, floor = size_of_step(theta, eps2, relative), least(p, eps1)
    lanes = np.zeros(min(LANES, theta.size))
    for start in range(0, theta.size, LANES):
        stop = start + LANES
        gradient, variances = grad[start:stop], kept[start:stop]
        for i in range(gradient.size):
            value = clip(gradient[i], scale, bound)
            variances[i] = between(variances[i], value * value, keep, take)
            u = wide(update(value, variances[i], floor))
            lanes[i] += u * u
    rate = like(p, alpha / max(1.0, sqrt(total(lanes) / p.size) / d))
    for i in range(theta.size):
        theta[i] = shrink * theta[i] - rate * update(clip(grad[i], scale, bound), kept[i], floor)
