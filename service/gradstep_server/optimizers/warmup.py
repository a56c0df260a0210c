"""Compile, or load from the cache, every loop before the service says it is ready."""

from __future__ import annotations

import math

import numpy as np

from gradstep_server.optimizers.compute import Compute, FloatArray
from gradstep_server.optimizers.union import OPTIMIZERS


def warm_up(compute: Compute) -> None:
    """Run every rule once for both master dtypes, by the examples of every kind."""
    ones: tuple[FloatArray, ...] = (np.ones(1, np.float32), np.ones(1, np.float64))
    for one in ones:
        compute.sum_of_squares(one)
        for kind in OPTIMIZERS.values():
            for example in kind.examples:
                optimizer = kind.model_validate(example)
                arrays = [one.copy() for _ in range(2 + len(optimizer.slots()))]
                coefficients = optimizer.coefficients(optimizer.lr, 1, fresh=True)
                compute.step(optimizer.rule(), arrays, (1.0, math.inf, *coefficients))
