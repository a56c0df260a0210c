"""Single rules by values worked out by hand, at their edges, and far out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from schedule_samples import SCHEDULER, measured
from torch_schedules import stepped

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import SCHEDULERS, OutOfReach, RateOverflow, Schedule


def make(kind: str, **params: Any) -> Schedule:
    return SCHEDULER.validate_python({"type": kind, **params})


def rates(kind: str, base_lr: float, points: int, /, **params: Any) -> list[float]:
    curve: list[float] = make(kind, **params).lrs(np.arange(points), base_lr).tolist()
    return curve


def test_step_lr_is_the_rule_of_the_brief() -> None:
    got = rates("StepLR", 0.1, 100, step_size=30, gamma=0.1)
    assert got == pytest.approx([0.1 * 0.1 ** (epoch // 30) for epoch in range(100)], rel=1e-15)


def test_milestones_that_are_listed_twice_count_twice() -> None:
    got = rates("MultiStepLR", 0.1, 5, milestones=[2, 2, 4])
    assert got == pytest.approx([0.1, 0.1, 0.001, 0.001, 0.0001], rel=1e-15)


def test_a_milestone_of_zero_applies_from_the_start_and_the_order_is_free() -> None:
    got = rates("MultiStepLR", 1.0, 4, milestones=[3, 0], gamma=0.5)
    assert got == [0.5, 0.5, 0.5, 0.25]


def test_a_cosine_rises_again_past_t_max() -> None:
    got = rates("CosineAnnealingLR", 0.1, 21, T_max=10, eta_min=0.001)
    assert got[0] == got[20] == 0.1
    assert got[10] == 0.001
    assert got[11] == pytest.approx(0.003423, abs=5e-7)
    assert got[:11] == got[20:9:-1]


def test_a_cosine_meets_its_ends_exactly() -> None:
    for T_max in (1, 3, 7, 10, 1_000, 99_991):
        schedule = make("CosineAnnealingLR", T_max=T_max, eta_min=0.003)
        assert schedule.lr(0, 0.7) == 0.7
        assert schedule.lr(T_max, 0.7) == 0.003


def test_a_constant_factor_of_zero_holds_still_and_then_lets_go() -> None:
    assert rates("ConstantLR", 0.1, 4, factor=0, total_iters=2) == [0, 0, 0.1, 0.1]


def test_a_line_starts_ends_and_stays_exactly() -> None:
    got = rates("LinearLR", 1.0, 6, start_factor=0.3, end_factor=0.1, total_iters=4)
    assert got == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1, 0.1])
    assert (got[0], got[4], got[5]) == (0.3, 0.1, 0.1)


def test_each_part_of_a_sequence_starts_at_its_own_step_zero() -> None:
    warmup = {"type": "LinearLR", "start_factor": 0.5, "total_iters": 2}
    decay = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    got = rates("SequentialLR", 1.0, 8, schedulers=[warmup, decay], milestones=[3])
    assert got == [0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.25]


def test_a_point_is_met_exactly_and_held_outside_of_all_points() -> None:
    points = [[2, 0.5], [4, 1], [8, 0.25]]
    assert rates("PiecewiseLR", 0.1, 10, points=points) == pytest.approx(
        [0.05, 0.05, 0.05, 0.075, 0.1, 0.08125, 0.0625, 0.04375, 0.025, 0.025]
    )
    stairs = rates("PiecewiseLR", 1.0, 10, points=points, interpolation="constant")
    assert stairs == [0.5] * 4 + [1] * 4 + [0.25] * 2
    bent = rates("PiecewiseLR", 1.0, 10, points=points, interpolation="cos")
    assert bent[2:9:2] == pytest.approx([0.5, 1, 0.625, 0.25])
    assert (bent[2], bent[4], bent[8]) == (0.5, 1, 0.25)


def test_a_cycle_meets_its_ends_exactly_however_often() -> None:
    cycle = make("CyclicLR", base_lr=0.01, max_lr=0.3, step_size_up=7, step_size_down=3)
    t = np.arange(0, 10**15, 10**14)
    assert set(cycle.lrs(t, 1.0).tolist()) == {0.01}
    assert set(cycle.momentums(t).tolist()) == {0.9}
    assert cycle.lrs(t + 7, 1.0) == pytest.approx(np.full(10, 0.3), rel=1e-15)


def test_a_cycle_begins_at_the_base_rate_unless_it_has_one_of_its_own() -> None:
    assert make("CyclicLR", max_lr=1).lr(0, 0.25) == 0.25
    assert make("CyclicLR", max_lr=1, base_lr=0).lr(0, 0.25) == 0


def test_a_rise_of_one_step_is_its_peak_where_torch_divides_by_0() -> None:
    params = {"type": "OneCycleLR", "max_lr": 1, "total_steps": 10, "pct_start": 0.1}
    with pytest.raises(ZeroDivisionError):
        stepped(params, 0.1, 1)
    schedule = SCHEDULER.validate_python(params)
    assert (schedule.lr(0, 0.1), schedule.momentum(0)) == (1, 0.85)


def test_averaging_begins_where_the_rate_before_it_stands() -> None:
    parts = [{"type": "StepLR", "step_size": 3, "gamma": 0.5}]
    parts.append({"type": "SWALR", "swa_lr": 1, "anneal_epochs": 2, "anneal_strategy": "linear"})
    got = rates("SequentialLR", 8.0, 9, schedulers=parts, milestones=[5])
    assert got == [8, 8, 8, 4, 4, 4, 2.5, 1, 1]
    assert rates("SWALR", 8.0, 3, swa_lr=1, anneal_epochs=0) == [1, 1, 1]


def test_a_sequence_of_averages_goes_on_from_one_to_the_next() -> None:
    average = {"type": "SWALR", "anneal_epochs": 4, "anneal_strategy": "linear"}
    parts = [{**average, "swa_lr": 0}, {**average, "swa_lr": 10}]
    got = rates("SequentialLR", 8.0, 8, schedulers=parts, milestones=[3])
    assert got == [8, 6, 4, 4, 5.5, 7, 8.5, 10]


def test_the_momentum_of_a_chain_is_the_last_that_is_set() -> None:
    cycles = [
        {"type": "CyclicLR", "max_lr": 1, "max_momentum": m, "base_momentum": m} for m in (0.5, 0.7)
    ]
    later = {"type": "SequentialLR", "schedulers": [{"type": "LinearLR"}, cycles[1]]}
    chain = make("ChainedScheduler", schedulers=[cycles[0], {**later, "milestones": [2]}])
    assert chain.momentums(np.arange(4)).tolist() == [0.5, 0.5, 0.7, 0.7]
    assert make("ChainedScheduler", schedulers=[{"type": "LinearLR"}]).momentum(0) is None


@pytest.mark.parametrize("offset", [0, 10**12, MAX_COUNT - 5_000])
def test_phases_are_exact_however_far_out(offset: int) -> None:
    t = np.arange(offset, offset + 2_000)
    cosine = make("CosineAnnealingLR", T_max=333, eta_min=0.001)
    np.testing.assert_array_equal(cosine.lrs(t, 0.1), cosine.lrs(t % 666, 0.1))
    steps = make("StepLR", step_size=offset + 1_000, gamma=0.5)
    np.testing.assert_array_equal(steps.lrs(t, 1.0), np.repeat([1, 0.5], 1_000))
    milestones = make("MultiStepLR", milestones=[offset + 1, offset + 1_999], gamma=0.5)
    np.testing.assert_array_equal(milestones.lrs(t, 1.0), [1] + [0.5] * 1_998 + [0.25])


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_largest_step_number_and_no_steps_at_all_are_fine(kind: str) -> None:
    for example in SCHEDULERS[kind].examples:
        schedule = make(kind, **example)
        assert schedule.lrs(np.array([], dtype=np.int64), 0.1, measured(schedule)).shape == (0,)
        if schedule.furthest < MAX_COUNT:
            with pytest.raises(OutOfReach, match=f"up to {schedule.furthest}"):
                schedule.lr(schedule.furthest + 1, 0.1)
        elif example.get("gamma", 0) <= 1:
            assert 0 <= schedule.lr(MAX_COUNT, 0.1, measured(schedule)) <= 1


def test_a_rate_that_vanishes_is_zero() -> None:
    assert make("StepLR", step_size=1, gamma=0.1).lr(5_000, 0.1) == 0


def test_a_rate_that_overflows_is_refused_with_its_step() -> None:
    schedule = make("StepLR", step_size=2, gamma=10)
    with pytest.raises(RateOverflow, match="step 618") as caught:
        schedule.lrs(np.arange(700)[::-1], 1.0)
    assert caught.value.step == 618
    assert schedule.lr(617, 1.0) == pytest.approx(1e308)


def test_a_rate_that_overflows_in_a_sequence_is_refused_with_the_outer_step() -> None:
    parts = [{"type": "ConstantLR"}, {"type": "StepLR", "step_size": 1, "gamma": 1e100}]
    with pytest.raises(RateOverflow) as caught:
        make("SequentialLR", schedulers=parts, milestones=[50]).lrs(np.arange(60), 1.0)
    assert caught.value.step == 54


def test_a_rate_of_zero_never_overflows() -> None:
    assert make("StepLR", step_size=1, gamma=10).lr(10_000, 0.0) == 0


def tower(depth: int) -> dict[str, Any]:
    params: dict[str, Any] = {"type": "StepLR", "step_size": 1}
    for _ in range(depth - 1):
        params = {"type": "SequentialLR", "schedulers": [params], "milestones": []}
    return params


def test_schedulers_nest_thirty_two_deep_and_no_deeper() -> None:
    deepest = SCHEDULER.validate_python(tower(32))
    assert deepest.lr(3, 1.0) == pytest.approx(1e-3)
    with pytest.raises(ValidationError, match="at most 32 deep"):
        make("SequentialLR", schedulers=[deepest], milestones=[])


@pytest.mark.parametrize("depth", [33, 300, 1_000, 20_000])
def test_what_is_nested_too_deep_is_refused_in_one_sentence(depth: int) -> None:
    with pytest.raises(ValidationError) as caught:
        SCHEDULER.validate_python(tower(depth))
    (error,) = caught.value.errors(include_input=False)
    assert error["type"] == "nested_too_deep"
    assert error["loc"] == ("SequentialLR", "schedulers")


def test_json_that_is_nested_too_deep_is_refused_while_it_is_parsed() -> None:
    opening = '{"type":"SequentialLR","milestones":[],"schedulers":['
    with pytest.raises(ValidationError):
        SCHEDULER.validate_json(opening * 1_000 + "]}" * 1_000)


def test_a_thousand_schedulers_may_be_listed_and_no_more() -> None:
    leaf = {"type": "ConstantLR"}
    many = make("SequentialLR", schedulers=[leaf] * 1_000, milestones=list(range(1, 1_000)))
    assert many.lr(2_000, 0.3) == 0.3
    half = {"type": "SequentialLR", "schedulers": [leaf] * 500, "milestones": list(range(499))}
    with pytest.raises(ValidationError, match="At most 1000 schedulers"):
        make("SequentialLR", schedulers=[half, half], milestones=[1_000])


NOTES: list[tuple[str, dict[str, Any], int, list[str]]] = [
    ("CosineAnnealingLR", {"T_max": 50}, 51, []),
    ("CosineAnnealingLR", {"T_max": 50}, 52, ["round at step 50 .* base_lr at step 100"]),
    ("LinearLR", {"end_factor": 0, "total_iters": 9}, 9, []),
    ("LinearLR", {"end_factor": 0, "total_iters": 9}, 10, ["reaches 0 at step 9"]),
    ("LinearLR", {"total_iters": 9}, 100, []),
    ("MultiStepLR", {"milestones": [7, 3, 7]}, 7, []),
    ("MultiStepLR", {"milestones": [7, 3, 7]}, 8, ["2 times at step 7"]),
    ("StepLR", {"step_size": 3}, 100, []),
    ("PolynomialLR", {"total_iters": 9}, 9, []),
    ("PolynomialLR", {"total_iters": 9}, 10, ["reaches 0 at step 9"]),
    ("PolynomialLR", {"total_iters": 9, "power": 0}, 100, []),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 10}, 10, []),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 11}, 3, []),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 11}, 5, ["misses .* at step 2.3"]),
    ("OneCycleLR", {"max_lr": 1, "total_steps": 11}, 12, ["misses its peak", "ends at step 10"]),
    (
        "ChainedScheduler",
        {"schedulers": [{"type": "CosineAnnealingLR", "T_max": 5}, {"type": "LinearLR"}]},
        9,
        ["round at step 5"],
    ),
]


@pytest.mark.parametrize(("kind", "params", "steps", "expected"), NOTES)
def test_a_note_is_given_where_the_curve_shows_its_reason(
    kind: str, params: dict[str, Any], steps: int, expected: list[str]
) -> None:
    notes = make(kind, **params).notes(range(steps))
    assert len(notes) == len(expected)
    for note, pattern in zip(notes, expected, strict=True):
        assert re.search(pattern, note)


def test_a_sequence_tells_the_notes_of_what_is_seen_in_the_users_own_steps() -> None:
    parts = [{"type": "LinearLR", "end_factor": 0}, {"type": "CosineAnnealingLR", "T_max": 50}]
    schedule = make("SequentialLR", schedulers=parts, milestones=[10])
    assert schedule.notes(range(5)) == []
    assert schedule.notes(range(61)) == ["LinearLR reaches 0 at step 5 and stays there."]
    (late,) = schedule.notes(range(40, 62))
    assert "round at step 60 " in late
    outer = make("SequentialLR", schedulers=[{"type": "ConstantLR"}, schedule], milestones=[100])
    (shifted,) = outer.notes(range(140, 162))
    assert "round at step 160 " in shifted
