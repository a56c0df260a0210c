"""ChainedScheduler: several schedulers at once, each moving the rate of the one before."""

from __future__ import annotations

from array import array
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np

from gradstep_server.kinds import Reject
from gradstep_server.schedulers.base import Momentums, Rates, Steps
from gradstep_server.schedulers.compiled import compiled
from gradstep_server.schedulers.composite import Composite, Schedulers

BLOCK = 2_048
"""Steps taken at a time. Where blocks begin depends on t alone, so bits do too."""

MAX_MOVES = 20_000_000
"""The most moves, of all schedulers together, that a rate may take: about a second's."""

MAX_TRAILS = 128
"""How many chains are remembered."""


class ChainedScheduler(Composite):
    """Runs several schedulers at the same time, each on the rate that the others left.

    At every step each scheduler moves the rate as torch steps it: it scales it, or
    shifts it, or sets it. They do so in the order listed, which matters where a
    scheduler has a floor or sets the rate. So the rate of a step follows from all
    steps before it, and the first one asked for far out takes longest.
    """

    formula = (
        r"\eta_t = (m_{n,t} \circ \dots \circ m_{1,t})(\eta_{t-1}),"
        r" \quad m_{i,t}(\eta) = a_{i,t} \, \eta + b_{i,t}"
    )
    torch_name = "torch.optim.lr_scheduler.ChainedScheduler"
    examples = (
        {
            "schedulers": [
                {"type": "ConstantLR", "factor": 0.1, "total_iters": 20},
                {"type": "ExponentialLR", "gamma": 0.98},
            ]
        },
        {
            "schedulers": [
                {"type": "LinearLR", "start_factor": 0.1, "total_iters": 10},
                {"type": "CosineAnnealingLR", "T_max": 40},
                {"type": "StepLR", "step_size": 25, "gamma": 0.5},
            ]
        },
        {
            "schedulers": [
                {"type": "MultiStepLR", "milestones": [0, 30, 30]},
                {"type": "CosineAnnealingWarmRestarts", "T_0": 10, "T_mult": 2},
                {"type": "LinearLR", "start_factor": 0.5, "total_iters": 8},
            ]
        },
        {"schedulers": [{"type": "PolynomialLR", "total_iters": 50}]},
    )
    rejects = (
        Reject({}, "schedulers"),
        Reject({"schedulers": []}, "schedulers"),
        Reject({"schedulers": {"type": "LinearLR"}}, "schedulers"),
        Reject({"schedulers": [{"type": "Unknown"}]}, "schedulers"),
        Reject({"schedulers": [{"type": "StepLR"}]}, "schedulers"),
        Reject({"schedulers": [{"type": "LinearLR"}], "milestones": []}, "milestones"),
    )

    type: Literal["ChainedScheduler"] = "ChainedScheduler"
    schedulers: Schedulers
    """The schedulers in the order in which they move the rate at every step."""

    @property
    def furthest(self) -> int:
        """The last t that has a rate: the more schedulers, the fewer steps."""
        reached = MAX_MOVES // self.size - 1
        return min(reached, *(scheduler.furthest for scheduler in self.schedulers))

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the rates that the moves of all steps up to each t lead to."""
        rates, trail = np.empty(t.shape), _trail(self, base_lr)
        block = t // BLOCK
        order = np.argsort(block, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
            if part.size:
                start = int(block[part[0]]) * BLOCK
                offset = t[part] - start
                rates[part] = trail.rates(start, int(offset.max()) + 1)[offset]
        return rates

    def affine(self, t: Steps, base_lr: float) -> tuple[Rates, Rates]:
        """Return the moves of all schedulers in one."""
        a, b = np.ones(t.shape), np.zeros(t.shape)
        for scheduler in self.schedulers:
            factor, offset = scheduler.affine(t, base_lr)
            a, b = factor * a, factor * b + offset
        return a, b

    def momentums(self, t: Steps) -> Momentums:
        """Return the momentums that the last scheduler that moves them sets."""
        momentums = super().momentums(t)
        for scheduler in self.schedulers:
            found = scheduler.momentums(t)
            momentums = np.where(np.isnan(found), momentums, found)
        return momentums

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Return the notes of every scheduler."""
        return [note for each in self.schedulers for note in each.notes(seen, origin)]


class Trail:
    """The rate before every block of a chain, kept as far as one was asked for."""

    def __init__(self, chain: ChainedScheduler, base_lr: float) -> None:
        self._chain = chain
        self._base_lr = base_lr
        self._before = array("d", [base_lr])
        self._lock = Lock()

    def rates(self, start: int, count: int) -> Rates:
        """Return the first `count` rates of the block that begins at `start`."""
        with self._lock:
            for earlier in range((len(self._before) - 1) * BLOCK, start, BLOCK):
                self._before.append(self._stepped(earlier, BLOCK)[-1])
        rates = self._stepped(start, count)
        with self._lock:
            if count == BLOCK and len(self._before) * BLOCK == start + BLOCK:
                self._before.append(rates[-1])
        return rates

    def _stepped(self, start: int, count: int) -> Rates:
        t = np.arange(start, start + count)
        moves = [each.affine(t, self._base_lr) for each in self._chain.schedulers]
        a, b = (np.stack(column) for column in zip(*moves, strict=True))
        rates = np.empty(t.shape)
        step_through(a, b, self._before[start // BLOCK], rates)
        return rates


@lru_cache(maxsize=MAX_TRAILS)
def _trail(chain: ChainedScheduler, base_lr: float) -> Trail:
    """Return the trail of a chain: its rates follow from its parameters alone."""
    return Trail(chain, base_lr)


@compiled("void(float64[:, ::1], float64[:, ::1], float64, float64[::1])")
def step_through(a: Rates, b: Rates, rate: float, rates: Rates) -> None:
    """Move a rate by each scheduler's a and b, step by step, and write every step's down."""
    for step in range(rates.size):
        for scheduler in range(a.shape[0]):
            rate = a[scheduler, step] * rate + b[scheduler, step]
        rates[step] = rate
