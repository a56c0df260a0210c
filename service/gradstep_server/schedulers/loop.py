"""How a training loop steps its schedule: t as a function of where the loop is.

A *step of the loop* is one batch in each process; without accumulation it is the
optimizer's step too. The schedule's t is how often the loop has stepped the
schedule before. Everything is whole numbers, and none of it needs the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradstep_server.schedulers.base import Steps

Unit = Literal["step", "epoch", "sample"]
"""In what a place in the loop is told."""

Places = NDArray[np.int64] | NDArray[np.float64]
"""Places in the loop, one for each of its steps: epochs may be fractions."""

_Step = TypeVar("_Step", int, Steps)


@dataclass(frozen=True)
class Loop:
    """A training loop, by default one that steps its schedule after every batch."""

    steps_per_epoch: int | None = None
    """Batches of an epoch in each process; None where the loop has no epochs."""

    gradient_accumulation: int = 1
    """Batches that lead to one step of the optimizer."""

    num_processes: int = 1
    """How often the schedule is stepped where a single process would step it once."""

    batch_size: int | None = None
    """Samples of a batch in each process."""

    schedule_on: Literal["step", "epoch"] = "step"
    """Whether the schedule is stepped with the optimizer or after each epoch."""

    unit: Unit = "step"
    """In what a place is told; an epoch needs `steps_per_epoch`, a sample `batch_size`."""

    @property
    def is_direct(self) -> bool:
        """Whether the schedule's t is the step of the loop itself."""
        each = self.gradient_accumulation == self.num_processes == 1
        return each and self.schedule_on == "step"

    def counted(self, step: _Step) -> _Step:
        """Return the schedule's t at a step of the loop, or at each of several."""
        if self.is_direct:
            return step
        epochs = step // self.steps_per_epoch if self.steps_per_epoch else 0 * step
        if self.schedule_on == "epoch":
            return epochs * self.num_processes
        batches = step - epochs * (self.steps_per_epoch or 0)
        # What is left at the end of an epoch makes a step of its own.
        updates = epochs * self._updates_per_epoch + batches // self.gradient_accumulation
        return updates * self.num_processes

    def step_at(self, place: int) -> int:
        """Return the first step of the loop that begins at a place, in `unit`, or after it."""
        if self.unit == "epoch":
            return place * (self.steps_per_epoch or 0)
        return -(-place // self._samples) if self.unit == "sample" else place

    def places(self, steps: Steps) -> Places:
        """Return in `unit` where each step of the loop begins."""
        if self.unit == "epoch":
            return steps / (self.steps_per_epoch or 1)
        return steps * self._samples if self.unit == "sample" else steps

    def furthest_count(self, step: int) -> int:
        """Return the largest number that is counted at a step: of steps, t, or samples."""
        samples = step * self._samples if self.unit == "sample" else 0
        return max(step, self.counted(step), samples)

    @property
    def _updates_per_epoch(self) -> int:
        return -(-(self.steps_per_epoch or 0) // self.gradient_accumulation)

    @property
    def _samples(self) -> int:
        """Samples of one step of the loop in all processes."""
        return (self.batch_size or 0) * self.num_processes


DIRECT = Loop()
"""The loop in which every step of the optimizer is one of the schedule."""
