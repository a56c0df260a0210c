"""Muon: momentum, made orthogonal matrix by matrix."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from gradstep_server.kinds import Flag, Fraction, NonNegative, Real, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer, Shape
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled
from gradstep_server.optimizers.whole import like, norm, wide

Matrix = NDArray[np.float32]
"""A matrix whose elements are bfloat16, held as float32."""

_LARGEST = 2.0**127
"""The largest power of two that is a bfloat16: what is larger is held within it."""

_MATCH = 0.2
"""The root mean square of AdamW's updates, as Moonshot measured it."""


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz iterations, for matrices.

    The iterations run in bfloat16 with sums in float32, as torch's do. Sums in
    another order round to another neighbour now and then, so steps differ from
    torch's by a few units of bfloat16 (docs/torch.md says by how much), while
    they are the same bits wherever gradstep takes them. A tensor that is not a
    matrix needs a group with another optimizer. Source: torch.optim.Muon;
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
    2024.
    """

    type: Literal["Muon"] = "Muon"

    weight_decay: NonNegative = 0.1
    """The coefficient λ of the decay, of the parameters themselves."""

    momentum: Fraction = 0.95
    """The momentum factor μ."""

    nesterov: Flag = True
    """Look ahead along the updated buffer."""

    ns_coefficients: tuple[Real, Real, Real] = (3.4445, -4.775, 2.0315)
    """The coefficients a, b and c of an iteration's polynomial."""

    eps: NonNegative = 1e-7
    """The least norm that the momentum is divided by."""

    ns_steps: Annotated[int, Strict(), Field(ge=1, lt=100)] = 5
    """How many iterations there are."""

    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None
    """How the rate follows the shape: null and `original` multiply it by
    √max(1, rows / columns), `match_rms_adamw` by 0.2 √max(rows, columns)."""

    formula = (
        r"m_t \leftarrow \mu m_{t-1} + (1-\mu) g_t,\quad "
        r"X \leftarrow \frac{(1-\mu) g_t + \mu m_t}{\lVert\cdot\rVert},\quad "
        r"X \leftarrow aX + (bXX^\top + c(XX^\top)^2)X \ \text{repeated},\quad "
        r"\theta_t \leftarrow (1 - \eta_t\lambda)\theta_{t-1} - "
        r"\eta_t \sqrt{\max(1, \tfrac{rows}{columns})}\, X"
    )
    torch_name = "torch.optim.Muon"
    examples = (
        {"lr": 1e-3},
        {"lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
        {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"momentum": 1.0}, "momentum"),
        Reject({"weight_decay": -0.1}, "weight_decay"),
        Reject({"eps": -1e-7}, "eps"),
        Reject({"ns_steps": 100}, "ns_steps"),
        Reject({"ns_steps": 0}, "ns_steps"),
        Reject({"ns_coefficients": [1.0, 2.0]}, "ns_coefficients"),
        Reject({"adjust_lr_fn": "other"}, "adjust_lr_fn"),
        Reject({"betas": [0.9, 0.99]}, "betas"),
    )
    squares_gradient = True
    whole = True

    def slots(self) -> tuple[str, ...]:
        """Return the momentum buffer."""
        return ("momentum_buffer",)

    def unfit(self, shape: Shape) -> str | None:
        """Return that a tensor is no matrix, if it is none."""
        if len(shape) == 2:  # noqa: PLR2004 - the axes of a matrix
            return None
        return (
            f"Muon steps matrices, the shape is {list(shape)}; put the tensor into a group with "
            'an optimizer of its own: {"match": ["*.bias"], "optimizer": {"type": "AdamW"}}'
        )

    def rule(self) -> Rule:
        """Return the loop."""
        return muon_step

    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:  # noqa: ARG002 - zeros are Muon's start
        """Return the rule's coefficients."""
        ahead = self.momentum if self.nesterov else 1.0
        match = float(self.adjust_lr_fn == "match_rms_adamw")
        iterations = (*self.ns_coefficients, self.eps, float(self.ns_steps))
        averages = (self.momentum, 1 - self.momentum, ahead)
        return (lr, 1 - lr * self.weight_decay, *averages, *iterations, match)


@compiled
def to_bfloat16(x: Matrix) -> None:
    """Round finite float32 to bfloat16: nearest, ties to even."""
    bits = x.reshape(-1).view(np.uint32)
    for i in range(bits.size):
        half = np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))
        bits[i] = (bits[i] + half) & np.uint32(0xFFFF0000)


@compiled
def product(a: Matrix, b: Matrix) -> Matrix:
    """Return ab in float32, each element summed in the order of a's columns."""
    rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    out = np.zeros((rows, columns), np.float32)
    fours = inner // 4 * 4
    for i in range(rows):
        row = out[i]
        for k in range(0, fours, 4):
            a0, a1, a2, a3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            for j in range(columns):
                row[j] = (((row[j] + a0 * b0[j]) + a1 * b1[j]) + a2 * b2[j]) + a3 * b3[j]
        for k in range(fours, inner):
            for j in range(columns):
                row[j] += a[i, k] * b[k, j]
    return out


@compiled
def polynomial(x: Matrix, of_x: float, y: Matrix, of_y: float) -> Matrix:
    """Return of_x · x + of_y · y, rounded once."""
    out = np.empty_like(x)
    one, other = np.float32(of_x), np.float32(of_y)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = one * x[i, j] + other * y[i, j]
    to_bfloat16(out)
    return out


@compiled
def orthogonal(x: Matrix, a: float, b: float, c: float, eps: float, steps: float) -> Matrix:
    """Return about UVᵀ, where X = USVᵀ has no more rows than columns."""
    length = np.full((1, 2), max(norm(x.ravel()), eps), np.float32)
    to_bfloat16(length)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] /= length[0, 0]
    to_bfloat16(x)
    for _ in range(int(steps)):
        gram = product(x, x.T.copy())
        to_bfloat16(gram)
        inner = polynomial(gram, b, product(gram, gram), c)
        x = polynomial(x, a, product(inner, x), 1.0)
    return x


@compiled
def muon_step(
    p: FloatArray,
    g: FloatArray,
    momentum_buffer: FloatArray,
    scale: float,
    bound: float,
    lr: float,
    shrink: float,
    keep: float,
    take: float,
    ahead: float,
    a: float,
    b: float,
    c: float,
    eps: float,
    steps: float,
    match: float,
) -> None:
    """Do m ← μm + (1 − μ)g, then θ ← (1 − ηλ)θ − η′X, X being the orthogonalised m."""
    if p.size == 0:
        return
    rows, columns = p.shape[1], p.shape[2]
    here = like(p, 1 - wide(ahead))  # not 1 - μ rounded: bfloat16 may hang on its last bit
    x = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            d = clip(g[0, i, j], scale, bound)
            m = between(momentum_buffer[0, i, j], d, keep, take)
            momentum_buffer[0, i, j] = m
            x[i, j] = min(max(between(d, m, here, ahead), -_LARGEST), _LARGEST)
    to_bfloat16(x)
    tall = rows > columns
    if tall:
        x = x.T.copy()
    x = orthogonal(x, a, b, c, eps, steps)
    if tall:
        x = x.T.copy()
    ratio = _MATCH * sqrt(max(rows, columns)) if match > 0 else sqrt(max(1.0, rows / columns))
    rate = like(p, lr * ratio)
    for i in range(rows):
        for j in range(columns):
            p[0, i, j] = shrink * p[0, i, j] - rate * x[i, j]
