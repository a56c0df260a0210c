"""SequentialLR: several schedules, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import MAX_COUNT, Count, Reject
from gradstep_server.schedulers.base import Momentums, Rates, Steps
from gradstep_server.schedulers.composite import MAX_SCHEDULERS, Composite, Schedulers


class SequentialLR(Composite):
    """Runs several schedulers one after the other, switching at the milestones.

    Each scheduler starts at its own step 0, from base_lr, at the milestone where
    it takes over. So a cosine after a warm-up of 10 steps takes T_max = total − 10.
    Only a SWALR goes on from the rate that it finds. Schedulers may be composites
    themselves.
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
    schedulers: Schedulers
    """The schedulers in the order in which they run."""

    milestones: Annotated[tuple[Count, ...], Field(max_length=MAX_SCHEDULERS, fail_fast=True)]
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
        rates, bases = np.empty(t.shape), self._bases(base_lr)
        for part, i, own_t in self._parts(t):
            rates[part] = self.schedulers[i].rule(own_t, bases[i])
        return rates

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:
        """Return the moves of the scheduler in charge, one that takes over as it begins."""
        factors, offsets = np.empty(t.shape), np.empty(t.shape)
        for part, i, own_t in self._parts(t):
            a, b = self.schedulers[i].affine(own_t, base_lr)
            restarts = (own_t == 0) & ((t[part] == 0) | (not self.schedulers[i].continues))
            factors[part] = np.where(restarts, 0.0, a)
            offsets[part] = np.where(restarts, a * base_lr + b, b)
        return factors, offsets

    def momentums(self, t: Steps) -> Momentums:
        """Return the momentums of the scheduler in charge at each t, by its own t."""
        momentums = np.empty(t.shape)
        for part, i, own_t in self._parts(t):
            momentums[part] = self.schedulers[i].momentums(own_t)
        return momentums

    @property
    def furthest(self) -> int:
        """The last t that has a rate, whichever scheduler is in charge of it."""
        starts = (0, *self.milestones)
        stops = (*self.milestones, MAX_COUNT + 1)
        reached = -1
        for scheduler, start, stop in zip(self.schedulers, starts, stops, strict=True):
            reached = min(stop - 1, start + scheduler.furthest)
            if reached < stop - 1:
                break
        return reached

    def _bases(self, base_lr: float) -> list[float]:
        """Return the rate with which each scheduler begins: base_lr, or what it continues."""
        bases, start = [base_lr], 0
        for (before, scheduler), stop in zip(
            pairwise(self.schedulers), self.milestones, strict=True
        ):
            found = base_lr
            if scheduler.continues and stop > start:
                last = np.array([stop - 1 - start])
                found = float(before.rule(last, bases[-1])[0])
            bases.append(found)
            start = stop
        return bases

    def _parts(self, t: Steps) -> Iterator[tuple[NDArray[np.intp], int, Steps]]:
        """Yield each scheduler that is in charge somewhere: where in `t`, which, its own t."""
        starts = np.array((0, *self.milestones), dtype=np.int64)
        active = np.searchsorted(starts[1:], t, side="right")
        order = np.argsort(active, kind="stable")
        # One cut per scheduler that is in charge somewhere, however many are listed.
        for part in np.split(order, np.flatnonzero(np.diff(active[order])) + 1):
            if part.size:
                i = int(active[part[0]])
                yield part, i, t[part] - starts[i]

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
