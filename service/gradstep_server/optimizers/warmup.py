"""Compile, or load from the cache, every loop before the service says it is ready."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradstep_server.optimizers.base import Optimizer, Shape
from gradstep_server.optimizers.compute import (
    Compute,
    FloatArray,
    Pass,
    add_share,
    in_dtype,
    round_to_bfloat16,
)
from gradstep_server.optimizers.union import OPTIMIZERS
from gradstep_server.optimizers.whole import matrices

_SHAPES: tuple[Shape, ...] = ((1,), (1, 1))
"""Of a parameter: where rules differ by the shape, they do between these."""


def warm_up(compute: Compute) -> None:
    """Run every rule once for both master dtypes, by the examples of every kind."""
    round_to_bfloat16(np.empty(1, np.uint16), np.ones(1, np.uint32))
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        compute.sum_of_squares(np.ones(1, dtype))
        compute.step(add_share, (np.ones(1, dtype), np.ones(1, dtype)), (1.0,))
        for kind in OPTIMIZERS.values():
            for example in kind.examples:
                optimizer = kind.model_validate(example)
                compute.run([_first_step(optimizer, shape, dtype) for shape in _SHAPES])


def _first_step(optimizer: Optimizer, shape: Shape, dtype: np.dtype[Any]) -> Pass:
    """Return the first step of a parameter of this shape."""

    def ones(shape: Shape) -> FloatArray:
        flat: FloatArray = np.ones(math.prod(shape), dtype)
        return matrices(flat, shape) if optimizer.whole else flat

    arrays = [ones(one) for one in (shape, shape, *optimizer.slots_of(shape).values())]
    coefficients = optimizer.coefficients(optimizer.lr, 1, fresh=True)
    scalars = in_dtype((1.0, math.inf, *coefficients), dtype)
    return Pass(optimizer.rule_of(shape), arrays, scalars, optimizer.whole)
