"""What asks for a curve, and what answers: the models of ``/v1/schedules``."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, Strict, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import MAX_COUNT, NUMBER_OR_LIST, Count, NonNegative, PositiveCount, Real
from gradstep_server.schedulers import NOTHING, Followed, Loop, Scheduler, Unit
from gradstep_server.schedulers.curve import MIN_DECIMATED

MAX_GROUPS = 1_000

_LOOP = tuple(field.name for field in fields(Loop))
"""What is asked of the training loop: the fields of `Loop`, each by its own name."""

BaseRates = Annotated[
    Annotated[NonNegative, Tag("number")]
    | Annotated[
        tuple[NonNegative, ...],
        Field(min_length=1, max_length=MAX_GROUPS),
        Field(fail_fast=True),
        Tag("list"),
    ],
    NUMBER_OR_LIST,
]
"""One rate, or one for each parameter group; an error names the shape that was sent."""

EXAMPLE: dict[str, Any] = {
    "scheduler": {
        "type": "SequentialLR",
        "schedulers": [
            {"type": "LinearLR", "start_factor": 0.1, "total_iters": 10},
            {"type": "CosineAnnealingLR", "T_max": 90},
        ],
        "milestones": [10],
    },
    "base_lr": 0.1,
    "steps": 100,
}


class CurveRequest(BaseModel):
    """A schedule and the window in which its rates are wanted."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [EXAMPLE]},
    )

    scheduler: Scheduler
    """The schedule: its `type` and its parameters."""

    base_lr: BaseRates
    """The rate that the schedule scales; a list asks for one line per parameter group."""

    steps: PositiveCount = 100
    """How many steps the curve spans; epochs or samples, if `unit` says so."""

    start: Count = 0
    """How many steps to skip; epochs or samples, if `unit` says so."""

    stride: PositiveCount = 1
    """The distance between two points, in steps."""

    max_points: Annotated[int, Strict(), Field(ge=MIN_DECIMATED, le=MAX_COUNT)] | None = None
    """Keep at most this many points: both ends, and the extremes between them."""

    metrics: Annotated[tuple[Real | None, ...], Field(fail_fast=True)] | None = None
    """What was measured after step 0, after step 1 and so on (or after each epoch, as
    `schedule_on` says), for a scheduler that follows a metric; null where it was no number."""

    steps_per_epoch: PositiveCount | None = None
    """The batches of an epoch in each process. At its end the optimizer steps, however few
    batches were accumulated."""

    gradient_accumulation: PositiveCount = 1
    """The batches that lead to one step of the optimizer. A step of the curve is a batch."""

    num_processes: PositiveCount = 1
    """How often the loop steps the scheduler for each step of the optimizer: with Hugging
    Face's accelerate the number of processes, unless `split_batches` is set."""

    batch_size: PositiveCount | None = None
    """The samples of a batch in each of `num_processes`."""

    schedule_on: Literal["step", "epoch"] = "step"
    """Whether the scheduler is stepped with the optimizer or after each epoch."""

    unit: Unit = "step"
    """In what `steps` and `start` are counted, and what the axis of a picture shows."""

    last_epoch: Annotated[int, Strict(), Field(ge=-1, le=MAX_COUNT)] = -1
    """The last step already taken: the curve begins with the one after it."""

    @field_validator("metrics")
    @classmethod
    def _are_followed(
        cls, metrics: tuple[float | None, ...] | None, info: ValidationInfo
    ) -> tuple[float | None, ...] | None:
        scheduler = info.data.get("scheduler")
        if metrics is not None and scheduler is not None and not scheduler.needs_metrics:
            raise PydanticCustomError(
                "metrics_not_followed",
                "Leave metrics out: {kind} follows none",
                {"kind": scheduler.kind_name()},
            )
        return metrics

    @field_validator("schedule_on", "unit")
    @classmethod
    def _is_told_what_it_needs(cls, value: str, info: ValidationInfo) -> str:
        needed = {"epoch": "steps_per_epoch", "sample": "batch_size"}.get(value)
        if needed is not None and info.data.get(needed, needed) is None:
            raise PydanticCustomError(
                "loop_incomplete",
                "{value} needs {needed}, which is missing",
                {"value": value, "needed": needed},
            )
        return value

    @field_validator("last_epoch")
    @classmethod
    def _counts_what_the_curve_counts(cls, last_epoch: int, info: ValidationInfo) -> int:
        known = {name: info.data[name] for name in _LOOP if name in info.data}
        loop = Loop(**known)
        if last_epoch != -1 and not (loop.is_direct and loop.unit == "step"):
            raise PydanticCustomError(
                "last_epoch_of_the_scheduler",
                "Give start instead: last_epoch counts the scheduler's steps, which are not"
                " those of this loop",
            )
        return last_epoch

    @property
    def loop(self) -> Loop:
        """How the training loop steps the scheduler."""
        return Loop(**{name: getattr(self, name) for name in _LOOP})

    @property
    def followed(self) -> Followed:
        """What the scheduler keeps of the metrics; a missing one is NaN."""
        if self.metrics is None:
            return NOTHING
        metrics = np.array(self.metrics, dtype=np.float64)
        # A loop hands one metric to every step of the scheduler that it makes at once.
        return self.scheduler.follow(NOTHING, np.repeat(metrics, self.num_processes))

    @property
    def base_lrs(self) -> tuple[float, ...]:
        """The base rate of each line."""
        return self.base_lr if isinstance(self.base_lr, tuple) else (self.base_lr,)

    @property
    def grouped(self) -> bool:
        """Whether the answer has one line per parameter group."""
        return isinstance(self.base_lr, tuple)


class CurvePoint(BaseModel):
    """A point of a curve in rows."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    step: int
    """The step number."""

    position: int | float | None = None
    """Where the step begins in epochs or samples; left out where `unit` asks for steps."""

    lr: float | list[float]
    """The rate, or one for each parameter group."""

    momentum: float | None = None
    """The momentum that the schedule sets; left out where it sets none at all."""


class CurveAnswer(BaseModel):
    """A curve in columns."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "step": [0, 1, 2],
                    "position": None,
                    "lr": [0.1, 0.1, 0.01],
                    "momentum": None,
                    "warnings": [],
                }
            ]
        },
    )

    step: list[int]
    """The step numbers; the rate at 0 is the one of the first optimizer step."""

    position: list[int] | list[float] | None
    """Where each step begins in epochs or samples, as `unit` asks; null where it asks for steps."""

    lr: list[float] | list[list[float]]
    """The rates; one list per parameter group where `base_lr` is a list."""

    momentum: list[float | None] | None
    """The momentums (or first betas) that the schedule sets, null at steps where the
    optimizer keeps its own; null where the schedule sets none at all."""

    warnings: list[str]
    """What is worth knowing of this curve."""
