"""What Hugging Face's two cosines to a floor share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.schedulers.annealing import Values
from gradstep_server.schedulers.base import Rates
from gradstep_server.schedulers.hf_warmup import TRAINING_REJECTS, HFTraining, half_cosines

FLOOR_REJECTS = (
    *(Reject({**reject.params, "min_lr": 0.1}, reject.field) for reject in TRAINING_REJECTS),
    Reject({"num_warmup_steps": 5, "num_training_steps": 50}, "min_lr_rate"),
    Reject(
        {"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": 0.1, "min_lr_rate": 0.1},
        "min_lr_rate",
    ),
    Reject({"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": -0.1}, "min_lr"),
    Reject({"num_warmup_steps": 5, "num_training_steps": 50, "min_lr_rate": -1}, "min_lr_rate"),
    Reject(
        {"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": 0, "num_cycles": -1},
        "num_cycles",
    ),
)
"""What every cosine to a floor refuses."""


class HFCosineTo(HFTraining):
    """A cosine to a floor, which is given as a rate or as a share of base_lr."""

    num_cycles: NonNegative = 0.5
    """The number of waves; half a one goes from the top to the bottom."""

    min_lr: NonNegative | None = None
    """The rate at the bottom, not scaled by base_lr."""

    min_lr_rate: Annotated[NonNegative | None, Field(validate_default=True)] = None
    """The share of base_lr at the bottom, instead of min_lr."""

    @field_validator("min_lr_rate")
    @classmethod
    def _given_once(cls, rate: float | None, info: ValidationInfo) -> float | None:
        if "min_lr" in info.data and (rate is None) == (info.data["min_lr"] is None):
            raise PydanticCustomError("floor", "Give either min_lr or min_lr_rate")
        return rate

    def fall(self, over: Values, base_lr: float) -> Rates:
        """Return the mean of base_lr and the floor weighted by the cosine.

        Args:
            over: shares of the decay that are over.
            base_lr: the rate at the top.
        """
        weight = half_cosines(self.num_cycles * over)
        floor = base_lr * (self.min_lr_rate or 0) if self.min_lr is None else self.min_lr
        return base_lr * weight + floor * (1 - weight)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say that the cosine goes on, where it does."""
        return self.goes_on(seen, origin)
