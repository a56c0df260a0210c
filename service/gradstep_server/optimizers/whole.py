"""The second family of rules: those that need a whole tensor, with its shape.

Such a rule takes stacks of matrices instead of flat arrays: the parameter, its
gradient and its slots, each with three axes. It runs on one thread and sums in
the order written, so that it gives the same bits live and in replay: what comes
out of its reductions need not be recorded, as long as it uses nothing of libm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from gradstep_server.optimizers.compute import FloatArray, compiled


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
def norm(x: FloatArray) -> float:
    """Return the L2 norm of a flat array, in float64 and summed in order.

    Finite elements whose squares overflow are scaled first.
    """
    total = 0.0
    for i in range(x.size):
        value = wide(x[i])
        total += value * value
    if math.isfinite(total):
        return math.sqrt(total)
    peak = 0.0
    for i in range(x.size):
        peak = max(peak, abs(wide(x[i])))
    total = 0.0
    for i in range(x.size):
        value = wide(x[i]) / peak
        total += value * value
    return peak * math.sqrt(total)


@compiled
def like(x: FloatArray, value: float) -> float:
    """Return a number rounded to the dtype of an array."""
    rounded = np.empty(1, x.dtype)
    rounded[0] = value
    return rounded[0]  # type: ignore[no-any-return] # a scalar of the array's dtype
