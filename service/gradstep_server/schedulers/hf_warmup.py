"""What Hugging Face's schedules share: a warm-up from 0, and the length of the training.

Their names are those of transformers' ``lr_scheduler_type`` in one word behind HF,
since "linear" and "cosine" are other curves than torch's LinearLR and
CosineAnnealingLR. Parameters carry the names that they have in transformers.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import Count, PositiveCount, Reject
from gradstep_server.schedulers.annealing import Values
from gradstep_server.schedulers.base import Rates, Schedule, Steps

TRAINING_REJECTS = (
    Reject({"num_training_steps": 100}, "num_warmup_steps"),
    Reject({"num_warmup_steps": -1, "num_training_steps": 100}, "num_warmup_steps"),
    Reject({"num_warmup_steps": 0.1, "num_training_steps": 100}, "num_warmup_steps"),
    Reject({"num_warmup_steps": 10}, "num_training_steps"),
    Reject({"num_warmup_steps": 0, "num_training_steps": 0}, "num_training_steps"),
    Reject({"num_warmup_steps": 10, "num_training_steps": 9}, "num_training_steps"),
)
"""What every schedule that knows the length of the training refuses."""


def half_cosines(x: Values) -> Values:
    """Return (1 + cos 2πx) / 2, so 1 where x is whole and 0 half-way between."""
    # sin² does not cancel near 0 as 1 + cos does.
    return np.square(np.sin(np.pi * (0.5 - x % 1)))


class HFWarmup(Schedule):
    """A schedule that begins with a warm-up."""

    num_warmup_steps: Count
    """The number of steps from 0 up to base_lr."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate of the warm-up before num_warmup_steps, and what follows."""
        later = np.maximum(t, self.num_warmup_steps)
        return np.where(
            t < self.num_warmup_steps, base_lr * self.warmup(t), self.after(later, base_lr)
        )

    def warmup(self, t: Steps) -> Values:
        """Return the share of base_lr at each t of the warm-up."""
        return t / max(1, self.num_warmup_steps)

    @abstractmethod
    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate at each t, none of which is in the warm-up."""


class HFTraining(HFWarmup):
    """A schedule that knows the length of the training."""

    num_training_steps: PositiveCount
    """The number of steps of the training, the warm-up included."""

    @field_validator("num_training_steps")
    @classmethod
    def _hold_the_warmup(cls, steps: int, info: ValidationInfo) -> int:
        if steps < info.data.get("num_warmup_steps", 0):
            raise PydanticCustomError(
                "training_too_short",
                "The {warmup} steps of the warm-up must fit into the training",
                {"warmup": info.data["num_warmup_steps"]},
            )
        return steps

    @property
    def decay_steps(self) -> int:
        """The number of steps behind the warm-up, at least 1."""
        return max(1, self.num_training_steps - self.num_warmup_steps)

    def progress(self, t: Steps) -> Values:
        """Return the share of the decay that is over at each t, above 1 past the end."""
        return (t - self.num_warmup_steps) / self.decay_steps

    def goes_on(self, seen: range, origin: int) -> list[str]:
        """Return the note of a cosine that goes on past the end, where that is seen."""
        if seen.stop <= self.num_training_steps + 1:
            return []
        end = origin + self.num_training_steps
        note = (
            f"{self.kind_name()} goes on past step {end} (num_training_steps), "
            "as in transformers, and may rise again."
        )
        return [note]
