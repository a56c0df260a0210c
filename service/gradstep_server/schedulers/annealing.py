"""The two paths from one value to another that torch's annealing schedulers share."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""Rates or momentums."""

Strategy = Literal["cos", "linear"]
"""Half a cosine, or a straight line."""


def weights(strategy: Strategy, left: Values) -> Values:
    """Return what the start value weighs where a share of the path is left.

    Args:
        strategy: the path.
        left: shares of the path that are left, from 1 at its start to 0 at its end.
    """
    # sin²(x/2) = (1 − cos x) / 2 does not cancel near the end as 1 + cos does.
    return left if strategy == "linear" else np.square(np.sin(left * (np.pi / 2)))


def anneal(strategy: Strategy, left: Values, start: Values | float, end: Values | float) -> Values:
    """Return the values on the way from `start` to `end`, both exact at their ends.

    Args:
        strategy: the path.
        left: shares of the path that are left, from 1 at its start to 0 at its end.
        start: where the path starts.
        end: where it ends.
    """
    weight = weights(strategy, left)
    return start * weight + end * (1 - weight)
