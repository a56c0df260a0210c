"""What is kept of the measurements that a schedule follows: enough to go on at any time."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from gradstep_server.kinds import Count, Real


def _rising(falls: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(falls)):
        raise ValueError("must increase strictly from one to the next")
    return falls


@dataclass(
    frozen=True,
    config=ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False),
)
class Followed:
    """Where a schedule stands after some measurements.

    It does not grow with the measurements, only with the falls that they led to.
    """

    measured: Count = 0
    """How many measurements there were: the first t that none was taken after."""

    best: Real | None = None
    """The best value so far; null before the first one that is a number."""

    bad: Count = 0
    """How many measurements in a row were no improvement."""

    cooling: Count = 0
    """How many of the next measurements are passed over."""

    falls: Annotated[tuple[Count, ...], Field(fail_fast=True), AfterValidator(_rising)] = ()
    """Each t from which on the rate is one step lower."""

    @cached_property
    def falls_array(self) -> NDArray[np.int64]:
        """The falls as an array."""
        return np.array(self.falls, dtype=np.int64)


NOTHING = Followed()
"""What is kept before anything was measured."""
