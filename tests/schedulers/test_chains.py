"""Chains: what is remembered of them, how far they reach, and what they cost."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from schedule_samples import SCHEDULER

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import NegativeRate, OutOfReach, Schedule
from gradstep_server.schedulers.chained_scheduler import (
    BLOCK,
    MAX_MOVES,
    ChainedScheduler,
    Trail,
    _trail,
)
from gradstep_server.schedulers.step_lr import StepLR

WARM = {"type": "LinearLR", "start_factor": 0.1, "total_iters": 100}
WAVE = {"type": "CosineAnnealingLR", "T_max": 700}
FALL = {"type": "ExponentialLR", "gamma": 0.9999}
LEAF = {"type": "StepLR", "step_size": 3, "gamma": 0.9}


def chain(*schedulers: dict[str, Any]) -> ChainedScheduler:
    return ChainedScheduler.model_validate({"schedulers": schedulers})


def test_a_step_far_out_is_reached_by_taking_every_step_before() -> None:
    schedule = chain(WARM, WAVE, FALL)
    t = np.arange(3 * BLOCK + 7)
    moves = [each.affine(t, 0.1) for each in schedule.schedulers]
    rate = 0.1
    for step in t:
        for a, b in moves:
            rate = a[step] * rate + b[step]
    assert schedule.lr(int(t[-1]), 0.1) == rate


@pytest.mark.parametrize("first", [0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_what_was_asked_before_changes_no_bit(first: int) -> None:
    schedule = chain(WARM, WAVE, FALL)
    whole = schedule.lrs(np.arange(6 * BLOCK), 0.1)
    _trail.cache_clear()
    assert schedule.lr(first, 0.1) == whole[first]
    order = np.random.default_rng(first).permutation(6 * BLOCK)[:500]
    np.testing.assert_array_equal(schedule.lrs(order, 0.1), whole[order])


def test_threads_that_follow_a_chain_together_find_the_same_rates() -> None:
    schedule = chain(WARM, WAVE, FALL)
    whole = schedule.lrs(np.arange(20 * BLOCK), 0.1)
    _trail.cache_clear()
    steps = [random.Random(7).randrange(20 * BLOCK) for _ in range(64)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda step: schedule.lr(step, 0.1), steps))
    assert found == whole[steps].tolist()


def test_the_next_step_needs_only_its_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    trail = Trail(chain(LEAF), 0.1)
    trail.rates(5 * BLOCK, 10)
    taken: list[int] = []
    monkeypatch.setattr(StepLR, "affine", _counted(taken))
    trail.rates(5 * BLOCK, 11)
    assert taken == [11]


def _counted(taken: list[int]) -> Any:
    affine = StepLR.affine

    def count(self: StepLR, t: Any, base_lr: float) -> Any:
        taken.append(t.size)
        return affine(self, t, base_lr)

    return count


def test_nesting_deeper_asks_no_schedule_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    params = LEAF
    for level in range(30):
        if level % 2:
            params = {"type": "ChainedScheduler", "schedulers": [params, WARM]}
        else:
            params = {"type": "SequentialLR", "schedulers": [params, WARM], "milestones": [500]}
    schedule = SCHEDULER.validate_python(params)
    taken: list[int] = []
    monkeypatch.setattr(StepLR, "affine", _counted(taken))
    schedule.lr(100, 0.1)
    assert taken == [101]


def test_the_more_schedules_a_chain_holds_the_fewer_steps_it_reaches() -> None:
    assert chain(LEAF).furthest == MAX_MOVES - 1
    assert chain(LEAF, WARM).furthest == MAX_MOVES // 2 - 1
    nested = chain(LEAF, chain(LEAF, WARM, FALL).model_dump())
    assert (nested.size, nested.furthest) == (4, MAX_MOVES // 4 - 1)


def sequence(*schedulers: Any, milestones: list[int]) -> Schedule:
    params = {"type": "SequentialLR", "schedulers": schedulers, "milestones": milestones}
    return SCHEDULER.validate_python(params)


def test_a_sequence_reaches_as_far_as_the_chain_that_is_in_charge() -> None:
    long = chain(LEAF).model_dump()
    assert sequence(long, LEAF, milestones=[1_000]).furthest == MAX_COUNT
    assert sequence(LEAF, long, milestones=[1_000]).furthest == 1_000 + MAX_MOVES - 1
    assert sequence(long, LEAF, milestones=[MAX_MOVES + 5]).furthest == MAX_MOVES - 1
    assert sequence(long, LEAF, milestones=[0]).furthest == MAX_COUNT


def test_what_is_out_of_reach_is_refused_with_the_step_that_was_asked_for() -> None:
    schedule = sequence(LEAF, chain(LEAF).model_dump(), milestones=[1_000])
    with pytest.raises(OutOfReach, match=f"up to {MAX_MOVES + 999}") as caught:
        schedule.lr(MAX_MOVES + 1_000, 0.1)
    assert caught.value.step == MAX_MOVES + 1_000


def test_a_chain_that_leads_below_0_is_refused_with_the_first_such_step() -> None:
    floor = {"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 0.05}
    schedule = chain(floor, {"type": "ExponentialLR", "gamma": 0.5})
    with pytest.raises(NegativeRate) as caught:
        schedule.lrs(np.arange(50)[::-1], 0.1)
    assert caught.value.step == 5
    assert schedule.lr(4, 0.1) > 0
