"""What implementers get wrong about torch's schedulers, by row: resuming, joining, metrics.

Each test names a row, S21 to S35, of the list of traps that was drawn up by running
torch. Where gradstep differs on purpose, the test shows both and docs/torch.md says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from schedule_samples import SCHEDULER
from torch.optim import lr_scheduler
from torch_schedules import stepped

from gradstep_server.schedulers import NOTHING, Curve, Rates, Schedule, window

Torch = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def make(kind: str, **params: Any) -> Schedule:
    return SCHEDULER.validate_python({"type": kind, **params})


def rates(schedule: Schedule, base_lr: float, points: int) -> Rates:
    return schedule.lrs(np.arange(points), base_lr)


def sgd(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def run(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    """Step torch, and return the rate before every step and after the last."""
    optimizer.step()
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def close(*values: float) -> Any:
    return pytest.approx(list(values), rel=2e-3)


STEP = {"type": "StepLR", "step_size": 5}
CONSTANT = {"type": "ConstantLR", "factor": 0.5, "total_iters": 5}


@pytest.mark.parametrize(
    ("params", "again", "wrong", "right"),
    [
        (STEP, lambda o: lr_scheduler.StepLR(o, 5, last_epoch=4), 0.001, 0.01),
        (
            {"type": "MultiStepLR", "milestones": [5]},
            lambda o: lr_scheduler.MultiStepLR(o, [5], last_epoch=4),
            0.001,
            0.01,
        ),
        (CONSTANT, lambda o: lr_scheduler.ConstantLR(o, 0.5, 5, last_epoch=4), 0.2, 0.1),
    ],
)
def test_s21_resuming_at_a_milestone_applies_it_once(
    params: dict[str, Any], again: Torch, wrong: float, right: float
) -> None:
    optimizer = sgd(stepped(params, 0.1, 6).lr[5])
    optimizer.param_groups[0]["initial_lr"] = 0.1
    again(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(wrong)
    resumed = Curve(SCHEDULER.validate_python(params), (0.1,), window(1, last_epoch=4))
    assert next(resumed.lrs()).tolist() == pytest.approx([right])


def test_s22_resuming_needs_nothing_but_the_schedule_and_its_base_rate() -> None:
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.ExponentialLR(sgd(), gamma=0.5, last_epoch=3)
    resumed = Curve(make("ExponentialLR", gamma=0.5), (0.1,), window(2, last_epoch=3))
    assert next(resumed.lrs()).tolist() == [0.1 / 16, 0.1 / 32]


def test_s23_a_schedule_has_no_state_that_could_disagree_with_the_optimizers() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    run(optimizer, scheduler, 3)
    fresh = sgd()
    loaded = lr_scheduler.ExponentialLR(fresh, gamma=0.5)
    loaded.load_state_dict(scheduler.state_dict())
    assert (loaded.get_last_lr()[0], fresh.param_groups[0]["lr"]) == (0.0125, 0.1)
    schedule = make("ExponentialLR", gamma=0.5)
    again = SCHEDULER.validate_json(schedule.model_dump_json())
    assert again == schedule
    assert again.lr(3, 0.1) == 0.0125


def test_s24_milestones_and_plateaus_survive_json() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.MultiStepLR(optimizer, [2])
    state = json.loads(json.dumps(scheduler.state_dict()))
    scheduler.load_state_dict(state)
    assert run(optimizer, scheduler, 4) == [0.1] * 5
    params = json.loads(make("MultiStepLR", milestones=[2]).model_dump_json())
    assert rates(SCHEDULER.validate_python(params), 0.1, 4) == close(0.1, 0.1, 0.01, 0.01)
    plateau = lr_scheduler.ReduceLROnPlateau(sgd()).state_dict()
    assert "Infinity" in json.dumps(plateau)
    assert "Infinity" not in make("ReduceLROnPlateau").model_dump_json()


def test_s25_asking_for_a_rate_twice_gives_it_twice() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    run(optimizer, scheduler, 1)
    with pytest.warns(UserWarning, match="get_last_lr"):
        assert scheduler.get_lr() == [0.025]
    schedule = make("ExponentialLR", gamma=0.5)
    assert [schedule.lr(1, 0.1), schedule.lr(1, 0.1)] == [0.05, 0.05]


def test_s26_no_order_of_calls_can_skip_the_first_rate() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="skipping the first value"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    schedule = make("StepLR", step_size=1)
    assert (schedule.lr(1, 0.1), schedule.lr(0, 0.1)) == pytest.approx((0.01, 0.1))


FALL = {"type": "ExponentialLR", "gamma": 0.9}
WAVE = {"type": "CosineAnnealingLR", "T_max": 5}
FLOOR = {**WAVE, "eta_min": 0.01}


def test_s27_a_chain_depends_on_its_order_where_there_is_a_floor() -> None:
    one = make("ChainedScheduler", schedulers=[FLOOR, FALL])
    other = make("ChainedScheduler", schedulers=[FALL, FLOOR])
    got, turned = rates(one, 0.1, 5), rates(other, 0.1, 5)
    assert not np.allclose(got, turned, rtol=1e-3)
    for schedule, curve in ((one, got), (other, turned)):
        np.testing.assert_allclose(curve, stepped(schedule.model_dump(), 0.1, 5).lr, rtol=1e-12)


def test_s27_a_chain_is_no_product_of_closed_forms_once_a_cosine_turns() -> None:
    schedule = make("ChainedScheduler", schedulers=[FALL, WAVE])
    expected = stepped(schedule.model_dump(), 0.1, 7).lr
    assert rates(schedule, 0.1, 7) == pytest.approx(expected, rel=1e-12)
    product = 0.9**6 * make("CosineAnnealingLR", T_max=5).lr(6, 0.1)
    assert (expected[6], product) == pytest.approx((0.00955, 0.00508), rel=2e-3)


@pytest.mark.parametrize(
    "last",
    [
        {"type": "CosineAnnealingWarmRestarts", "T_0": 4},
        {"type": "CyclicLR", "max_lr": 0.5, "step_size_up": 3},
        {"type": "ExpressionLR", "expression": "base_lr / (t + 1)"},
        {"type": "HFConstantWithWarmup", "num_warmup_steps": 5},
    ],
)
def test_s27_a_schedule_that_sets_the_rate_overwrites_those_before_it(last: dict[str, Any]) -> None:
    chain = make("ChainedScheduler", schedulers=[FALL, STEP, last])
    np.testing.assert_array_equal(
        rates(chain, 0.1, 30), rates(SCHEDULER.validate_python(last), 0.1, 30)
    )


def test_s28_each_part_of_a_sequence_starts_anew_from_the_base_rate() -> None:
    rise = {"type": "LinearLR", "start_factor": 0.25, "total_iters": 4}
    params = {
        "type": "SequentialLR",
        "schedulers": [rise, {"type": "ExponentialLR", "gamma": 0.5}],
        "milestones": [2],
    }
    got = rates(SCHEDULER.validate_python(params), 0.1, 4)
    assert got == close(0.025, 0.04375, 0.1, 0.05)
    np.testing.assert_allclose(got, stepped(params, 0.1, 4).lr, rtol=1e-12)
    params["milestones"] = [0]
    at_once = rates(SCHEDULER.validate_python(params), 0.1, 3)
    assert at_once == close(0.1, 0.05, 0.025)
    np.testing.assert_allclose(at_once, stepped(params, 0.1, 3).lr, rtol=1e-12)


def test_s29_composites_may_stand_anywhere_in_a_sequence() -> None:
    chain = {"type": "ChainedScheduler", "schedulers": [CONSTANT, FALL]}
    behind = {"type": "SequentialLR", "schedulers": [FALL, chain], "milestones": [3]}
    with pytest.raises(NotImplementedError):
        stepped(behind, 0.1, 5)
    got = rates(SCHEDULER.validate_python(behind), 0.1, 20)
    alone = rates(SCHEDULER.validate_python(chain), 0.1, 17)
    np.testing.assert_array_equal(got[3:], alone)
    first = {"type": "SequentialLR", "schedulers": [chain, FALL], "milestones": [9]}
    np.testing.assert_array_equal(rates(SCHEDULER.validate_python(first), 0.1, 9), alone[:9])
    with pytest.warns(UserWarning, match="skipping the first value"):
        advanced = stepped(first, 0.1, 4).lr
    np.testing.assert_allclose(advanced[1:], alone[2:5], rtol=1e-12)


def test_s30_the_parts_of_a_composite_leave_each_other_alone() -> None:
    rise = {"type": "LinearLR", "start_factor": 0.5, "total_iters": 10}
    peak = {"type": "OneCycleLR", "max_lr": 1, "total_steps": 100}
    params = {"type": "SequentialLR", "schedulers": [rise, peak], "milestones": [10]}
    assert stepped(params, 0.1, 10).lr[9] < 0.04
    assert rates(SCHEDULER.validate_python(params), 0.1, 10)[9] == pytest.approx(0.095)
    averages = [{"type": "SWALR", "swa_lr": lr} for lr in (0.5, 0.01)]
    pair = {"type": "SequentialLR", "schedulers": averages, "milestones": [20]}
    assert stepped(pair, 0.1, 20).lr[19] == pytest.approx(0.01)
    assert rates(SCHEDULER.validate_python(pair), 0.1, 40)[[19, 39]] == close(0.5, 0.01)


def test_s31_a_sequence_resumes_in_the_part_that_it_was_in() -> None:
    params = {"type": "SequentialLR", "schedulers": [CONSTANT, FALL], "milestones": [7]}
    schedule = SCHEDULER.validate_python(params)
    whole = stepped(params, 0.1, 20).lr
    for last_epoch in range(-1, 19):
        resumed = next(Curve(schedule, (0.1,), window(1, last_epoch=last_epoch)).lrs())
        assert resumed[0] == pytest.approx(whole[last_epoch + 1], rel=1e-12)


def plateau(metrics: list[float], **params: Any) -> list[float]:
    schedule = make("ReduceLROnPlateau", **params)
    t = np.arange(len(metrics) + 1)
    got: list[float] = schedule.lrs(t, 0.1, schedule.follow(NOTHING, np.array(metrics))).tolist()
    return got


def test_s32_a_plateau_reduces_when_more_than_patience_values_were_no_better() -> None:
    assert plateau([1.0] * 5, patience=2) == close(0.1, 0.1, 0.1, 0.1, 0.01, 0.01)
    assert plateau([1.0] * 3, patience=0) == close(0.1, 0.1, 0.01, 0.001)


def test_s32_no_number_is_never_an_improvement() -> None:
    assert plateau([math.nan] * 2, patience=1) == close(0.1, 0.1, 0.01)
    assert plateau([1, math.nan, 0.5, 2], patience=1) == close(0.1, 0.1, 0.1, 0.1, 0.1)


def test_s32_a_cooldown_forgets_bad_values() -> None:
    got = plateau([1.0] * 7, patience=0, cooldown=2)
    assert got == close(0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001)


def test_s32_a_fall_of_no_more_than_eps_is_left_out() -> None:
    assert plateau([1.0] * 4, patience=0, eps=0.089) == close(0.1, 0.1, 0.01, 0.01, 0.01)
    assert plateau([1.0] * 4, patience=0, min_lr=0.05) == close(0.1, 0.1, 0.05, 0.05, 0.05)


def test_s33_rel_turns_over_below_0_as_in_torch_and_rel_abs_does_not() -> None:
    worse = [-1.0, -0.99995, -0.99995, -0.99995]
    optimizer = sgd()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    expected = [0.1]
    for metric in worse:
        scheduler.step(metric)
        expected.append(optimizer.param_groups[0]["lr"])
    got = plateau(worse, patience=0)
    assert got == pytest.approx(expected)
    assert got == close(0.1, 0.1, 0.1, 0.1, 0.1)
    meant = plateau(worse, patience=0, threshold_mode="rel_abs")
    assert meant == close(0.1, 0.1, 0.01, 0.001, 0.0001)


def test_s34_a_further_group_needs_only_its_base_rate() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=1, total_steps=9, cycle_momentum=False)
    optimizer.step()
    optimizer.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.3})
    with pytest.raises(KeyError, match="initial_lr"):
        scheduler.step()
    for params in (STEP, WAVE, {"type": "CyclicLR", "max_lr": 1}):
        curve = Curve(SCHEDULER.validate_python(params), (0.1, 0.3), window(20))
        alone = Curve(curve.schedule, (0.3,), window(20))
        np.testing.assert_array_equal(next(curve.lrs(1)), next(alone.lrs()))


def test_s35_a_formula_is_kept_where_torch_forgets_a_lambda() -> None:
    forgotten = lr_scheduler.LambdaLR(sgd(), lambda t: 1 / (t + 1)).state_dict()
    assert forgotten["lr_lambdas"] == [None]
    schedule = make("ExpressionLR", expression="base_lr / (t + 1)")
    kept = SCHEDULER.validate_json(schedule.model_dump_json())
    assert rates(kept, 0.1, 3) == close(0.1, 0.05, 0.1 / 3)
