"""The second family of rules: those that need a whole tensor, with its shape.

Such a rule takes stacks of matrices instead of flat arrays: the parameter, its
gradient and its slots, each with three axes. It runs on one thread and sums in
the order written, so that it gives the same bits live and in replay: what comes
out of its reductions need not be recorded, as long as it uses nothing of libm.
That order has `LANES`, so that a sum is an elementwise loop and SIMD, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from gradstep_server.optimizers.compute import FloatArray, compiled

LANES = 512
"""Partial sums of a reduction: the first takes every 512th element from the first on."""


def matrices(values: FloatArray, shape: Sequence[int]) -> FloatArray:
    """Return a flat array as a stack of the matrices of its last two axes.

    A vector is one row, a number one row of one.
    """
    rows, columns = (1, *shape)[-2:] if shape else (1, 1)
    stack = math.prod(shape[:-2])
    return cast("FloatArray", values.reshape(stack, rows, columns))


@compiled
def wide(x: float) -> float:
    """Return a number as float64."""
    return np.float64(x)


@compiled
def total(lanes: FloatArray) -> float:
    """Return the sum of partial sums, which are lost: their second half is added to the first."""
    left = lanes.size
    while left > 1:
        half = (left + 1) // 2
        first, second = lanes[:half], lanes[half:left]
        for i in range(second.size):
            first[i] += second[i]
        left = half
    return lanes[0] if left else 0.0


@compiled
def sum_of_squares(x: FloatArray, scale: float) -> float:
    """Return Σ(scale · x)² of a flat array, in float64."""
    lanes = np.zeros(min(LANES, x.size))
    for start in range(0, x.size, LANES):
        block = x[start : start + LANES]  # its indices are known not to be negative: SIMD
        for i in range(block.size):
            value = wide(block[i]) * scale
            lanes[i] += value * value
    return total(lanes)


@compiled
def norm(x: FloatArray) -> float:
    """Return the L2 norm of a flat array, in float64.

    Finite elements whose squares overflow are scaled by a power of 2, which is exact.
    """
    squares = sum_of_squares(x, 1.0)
    if math.isfinite(squares):
        return math.sqrt(squares)
    return math.sqrt(sum_of_squares(x, 2.0**-600)) * 2.0**600


@compiled
def like(x: FloatArray, value: float) -> float:
    """Return a number rounded to the dtype of an array."""
    rounded = np.empty(1, x.dtype)
    rounded[0] = value
    return rounded[0]  # type: ignore[no-any-return] # a scalar of the array's dtype
