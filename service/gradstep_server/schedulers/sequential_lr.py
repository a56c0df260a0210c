"""SequentialLR: several schedules, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import Count, Reject
from gradstep_server.schedulers.base import Momentums, Rates, Schedule, Steps

if TYPE_CHECKING:
    from gradstep_server.schedulers.union import Scheduler

MAX_DEPTH = 32
"""How deep schedules may be nested, the outermost one included."""

MAX_SCHEDULERS = 1_000
"""How many schedules one composite may hold, at all depths together."""


def _listed(schedulers: object) -> list[object]:
    """Return what is listed, before it is known to be valid."""
    return list(schedulers) if isinstance(schedulers, list | tuple) else []


def _nested(item: object) -> list[object]:
    """Return what a listed scheduler lists itself, if it is a composite."""
    if isinstance(item, dict):
        return _listed(item.get("schedulers"))
    return _listed(getattr(item, "schedulers", None))


def _within_limits(schedulers: object) -> object:
    """Refuse what is too much before the validation descends into it."""
    level, total, depth = _listed(schedulers), 0, 1
    while level:
        total, depth = total + len(level), depth + 1
        if total > MAX_SCHEDULERS:
            raise PydanticCustomError(
                "too_many_schedulers",
                "At most {limit} schedulers may be listed, nested ones included",
                {"limit": MAX_SCHEDULERS},
            )
        if depth > MAX_DEPTH:
            raise PydanticCustomError(
                "nested_too_deep",
                "Schedulers may be nested at most {limit} deep",
                {"limit": MAX_DEPTH},
            )
        level = [inner for item in level for inner in _nested(item)]
    return schedulers


class SequentialLR(Schedule):
    """Runs several schedulers one after the other, switching at the milestones.

    Each scheduler starts at its own step 0, from base_lr, at the milestone where
    it takes over. So a cosine after a warm-up of 10 steps takes T_max = total − 10.
    Schedulers may be composites themselves.
    """

    formula = r"\eta_t = \eta^{(i)}_{t - m_i}, \quad m_i \le t < m_{i+1}, \quad m_0 = 0"
    torch_name = "torch.optim.lr_scheduler.SequentialLR"
    examples = (
        {
            "schedulers": [
                {"type": "LinearLR", "start_factor": 0.1, "total_iters": 10},
                {"type": "CosineAnnealingLR", "T_max": 90},
            ],
            "milestones": [10],
        },
        {
            "schedulers": [
                {"type": "ConstantLR", "factor": 0.1, "total_iters": 4},
                {"type": "MultiStepLR", "milestones": [0, 20, 20], "gamma": 0.5},
                {"type": "StepLR", "step_size": 5, "gamma": 0.8},
            ],
            "milestones": [6, 40],
        },
        {
            "schedulers": [
                {"type": "StepLR", "step_size": 2},
                {"type": "CosineAnnealingLR", "T_max": 7, "eta_min": 0.01},
            ],
            "milestones": [0],
        },
        {"schedulers": [{"type": "LinearLR"}], "milestones": []},
    )
    rejects = (
        Reject({"milestones": []}, "schedulers"),
        Reject({"schedulers": [], "milestones": []}, "schedulers"),
        Reject({"schedulers": {"type": "LinearLR"}, "milestones": []}, "schedulers"),
        Reject({"schedulers": [{"type": "Unknown"}], "milestones": []}, "schedulers"),
        Reject({"schedulers": [{"type": "LinearLR", "x": 1}], "milestones": []}, "schedulers"),
        Reject({"schedulers": [{"type": "LinearLR"}]}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}], "milestones": [5]}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}] * 2, "milestones": []}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}] * 2, "milestones": [-1]}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}] * 2, "milestones": [2.5]}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}] * 3, "milestones": [9, 5]}, "milestones"),
        Reject({"schedulers": [{"type": "LinearLR"}] * 3, "milestones": [5, 5]}, "milestones"),
    )

    type: Literal["SequentialLR"] = "SequentialLR"
    schedulers: Annotated[
        tuple[Scheduler, ...], Field(min_length=1), BeforeValidator(_within_limits)
    ]
    """The schedulers in the order in which they run."""

    milestones: tuple[Count, ...]
    """The steps at which the next scheduler takes over, strictly increasing; one
    fewer than there are schedulers."""

    @field_validator("milestones")
    @classmethod
    def _fit_the_schedulers(
        cls, milestones: tuple[int, ...], info: ValidationInfo
    ) -> tuple[int, ...]:
        schedulers = info.data.get("schedulers")
        if schedulers is not None and len(milestones) != len(schedulers) - 1:
            raise PydanticCustomError(
                "milestones_length",
                "{schedulers} schedulers need {expected} milestones, not {given}",
                {
                    "schedulers": len(schedulers),
                    "expected": len(schedulers) - 1,
                    "given": len(milestones),
                },
            )
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise PydanticCustomError(
                "milestones_order", "Milestones must increase strictly from one to the next"
            )
        return milestones

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rates of the scheduler in charge at each t, by its own t."""
        rates = np.empty(t.shape)
        for part, scheduler, own_t in self._parts(t):
            rates[part] = scheduler.rule(own_t, base_lr)
        return rates

    @property
    def moves_momentum(self) -> bool:
        """Whether any of the schedulers does."""
        return any(scheduler.moves_momentum for scheduler in self.schedulers)

    def momentums(self, t: Steps) -> Momentums:
        """Return the momentums of the scheduler in charge at each t, by its own t."""
        momentums = np.empty(t.shape)
        for part, scheduler, own_t in self._parts(t):
            momentums[part] = scheduler.momentums(own_t)
        return momentums

    def _parts(self, t: Steps) -> Iterator[tuple[NDArray[np.intp], Schedule, Steps]]:
        """Yield each scheduler that is in charge somewhere: where in `t`, and its own t."""
        starts = np.array((0, *self.milestones), dtype=np.int64)
        active = np.searchsorted(starts[1:], t, side="right")
        order = np.argsort(active, kind="stable")
        # One cut per scheduler that is in charge somewhere, however many are listed.
        for part in np.split(order, np.flatnonzero(np.diff(active[order])) + 1):
            if part.size:
                i = active[part[0]]
                yield part, self.schedulers[i], t[part] - starts[i]

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Return the notes of every scheduler on the part where it is in charge."""
        starts = (0, *self.milestones)
        stops = (*self.milestones, seen.stop)
        notes: list[str] = []
        for scheduler, start, stop in zip(self.schedulers, starts, stops, strict=True):
            part = range(max(seen.start, start) - start, min(seen.stop, stop) - start)
            if part:
                notes += scheduler.notes(part, origin + start)
        return notes
