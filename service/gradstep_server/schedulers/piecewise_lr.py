"""PiecewiseLR: the rate goes through given points."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import Count, NonNegative, Reject
from gradstep_server.schedulers.annealing import anneal
from gradstep_server.schedulers.base import Rates, Schedule, Steps

MAX_POINTS = 10_000
"""Far more than anyone writes down, few enough to search at every call."""


class PiecewiseLR(Schedule):
    """Moves the rate from point to point along lines, half cosines or stairs.

    Before the first point the rate is that of the first, behind the last one that of
    the last. A point says a share of base_lr, so that parameter groups keep their
    proportions; with a base_lr of 1 the points are rates. torch has no such class.
    """

    formula = (
        r"\eta_t = \eta_0 \left(f_i + (f_{i+1} - f_i) \, g\left("
        r"\frac{t - t_i}{t_{i+1} - t_i}\right)\right), \quad t_i \le t < t_{i+1},"
        r" \quad g(x) \in \left\{x, \; \tfrac{1}{2} (1 - \cos \pi x), \; 0\right\}"
    )
    torch_name = ""
    examples = (
        {"points": [[0, 0], [10, 1], [60, 0.3], [90, 0]]},
        {"points": [[0, 1], [30, 0.1], [60, 0.01]], "interpolation": "constant"},
        {"points": [[5, 0.1], [20, 1], [100, 0.05]], "interpolation": "cos"},
        {"points": [[7, 0.5]]},
    )
    rejects = (
        Reject({}, "points"),
        Reject({"points": []}, "points"),
        Reject({"points": [0, 1]}, "points"),
        Reject({"points": [[0]]}, "points"),
        Reject({"points": [[0, 1, 2]]}, "points"),
        Reject({"points": [[-1, 1]]}, "points"),
        Reject({"points": [[0.5, 1]]}, "points"),
        Reject({"points": [[0, -1]]}, "points"),
        Reject({"points": [[0, float("inf")]]}, "points"),
        Reject({"points": [[5, 1], [5, 2]]}, "points"),
        Reject({"points": [[5, 1], [4, 2]]}, "points"),
        Reject({"points": [[i, 1] for i in range(MAX_POINTS + 1)]}, "points"),
        Reject({"points": [[0, 1]], "interpolation": "cubic"}, "interpolation"),
    )

    type: Literal["PiecewiseLR"] = "PiecewiseLR"
    points: Annotated[
        tuple[tuple[Count, NonNegative], ...],
        Field(min_length=1, max_length=MAX_POINTS),
        Field(fail_fast=True),
    ]
    """Pairs of a step and a share of base_lr, the steps strictly increasing."""

    interpolation: Literal["linear", "cos", "constant"] = "linear"
    """The path between two points: a straight line, half a cosine, or the value of the
    first one until the second."""

    @field_validator("points")
    @classmethod
    def _in_order(cls, points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        if any(later <= earlier for (earlier, _), (later, _) in pairwise(points)):
            raise PydanticCustomError(
                "points_order", "The steps must increase strictly from one point to the next"
            )
        return points

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the value between the points around each t."""
        steps = np.array([step for step, _ in self.points], dtype=np.int64)
        factors = np.array([factor for _, factor in self.points], dtype=np.float64)
        # Outside of all points both neighbours are the nearest one.
        before = np.maximum(np.searchsorted(steps, t, side="right") - 1, 0)
        after = np.minimum(before + (t >= steps[0]), steps.size - 1)
        if self.interpolation == "constant":
            return base_lr * factors[before]
        width = steps[after] - steps[before]
        left = np.divide(steps[after] - t, width, out=np.ones(t.shape), where=width > 0)
        return base_lr * anneal(self.interpolation, left, factors[before], factors[after])
