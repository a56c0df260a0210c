"""What implementers get wrong about torch's schedulers, by row: single schedules.

Each test names a row, S1 to S20, of the list of traps that was drawn up by running
torch. Where gradstep differs on purpose, the test shows both and docs/torch.md says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from schedule_samples import SCHEDULER
from torch.optim import lr_scheduler
from torch_schedules import stepped

from gradstep_server.schedulers import Rates, Schedule
from gradstep_server.schedulers.annealing import Strategy
from gradstep_server.web.curve_request import CurveRequest


def make(kind: str, **params: Any) -> Schedule:
    return SCHEDULER.validate_python({"type": kind, **params})


def rates(schedule: Schedule, base_lr: float, points: int) -> Rates:
    return schedule.lrs(np.arange(points), base_lr)


def sgd(lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, **options)


def close(*values: float) -> Any:
    return pytest.approx(list(values), rel=1e-3)


def test_s1_the_first_rate_is_what_constructing_leaves_in_the_optimizer() -> None:
    for params in (
        {"type": "LinearLR"},
        {"type": "ConstantLR"},
        {"type": "MultiStepLR", "milestones": [0]},
        {"type": "OneCycleLR", "max_lr": 1, "total_steps": 10},
        {"type": "CyclicLR", "base_lr": 0.02, "max_lr": 1},
    ):
        found = stepped(params, 0.3, 1)
        schedule = SCHEDULER.validate_python(params)
        assert schedule.lr(0, 0.3) == pytest.approx(found.lr[0], rel=1e-14)
        if schedule.moves_momentum:
            assert schedule.momentum(0) == found.momentum[0]


def test_s2_the_rate_at_0_is_used_by_the_first_step_and_n_points_take_n_minus_1_steps() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    used = []
    for _ in range(3):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(make("ExponentialLR", gamma=0.5), 0.1, 3).tolist() == used == [0.1, 0.05, 0.025]


def test_s3_a_cosine_goes_back_up_past_t_max_with_the_period_of_two() -> None:
    got = rates(make("CosineAnnealingLR", T_max=10, eta_min=0.001), 0.1, 61)
    assert got[[10, 11, 20]] == close(0.001, 0.003423, 0.1)
    np.testing.assert_array_equal(got[20:41], got[40:])


def test_s4_a_rate_changed_by_hand_does_not_bend_the_schedule() -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.05
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0412, abs=5e-5)
    assert make("CosineAnnealingLR", T_max=10).lr(4, 0.1) == pytest.approx(0.0655, abs=5e-5)


@pytest.mark.parametrize("kind", ["ConstantLR", "LinearLR", "PolynomialLR"])
def test_s5_a_length_of_0_where_torchs_two_formulas_part_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="total_iters"):
        make(kind, total_iters=0)


def test_s6_milestones_listed_twice_count_twice_and_one_at_0_counts_at_once() -> None:
    got = rates(make("MultiStepLR", milestones=[4, 2, 2, 0]), 1.0, 5)
    assert got == close(0.1, 0.1, 0.001, 0.001, 0.0001)
    with pytest.raises(ValidationError, match=r"milestones\.0"):
        make("MultiStepLR", milestones=[2.5])


def test_s7_a_step_size_with_a_fraction_is_refused() -> None:
    with pytest.raises(ValidationError, match="step_size"):
        make("StepLR", step_size=1.5)


def test_s8_a_line_may_end_at_0_and_not_start_there() -> None:
    with pytest.raises(ValueError, match="Starting"):
        lr_scheduler.LinearLR(sgd(), start_factor=0)
    with pytest.raises(ValidationError, match="start_factor"):
        make("LinearLR", start_factor=0)
    assert make("LinearLR", end_factor=0, total_iters=3).lr(3, 1.0) == 0


def test_s9_a_constant_factor_of_0_comes_back_where_torch_divides_by_it() -> None:
    with pytest.raises(ZeroDivisionError):
        stepped({"type": "ConstantLR", "factor": 0, "total_iters": 2}, 0.1, 4)
    assert rates(make("ConstantLR", factor=0, total_iters=2), 0.1, 4).tolist() == [0, 0, 0.1, 0.1]


def test_s10_a_polynomial_ends_at_0_and_stays_there() -> None:
    got = rates(make("PolynomialLR", total_iters=4, power=2), 1.0, 8)
    assert got.tolist() == [1, 0.5625, 0.25, 0.0625, 0, 0, 0, 0]


def test_s11_one_cycle_ends_far_below_where_it_began() -> None:
    got = rates(make("OneCycleLR", max_lr=1, total_steps=10), 77.0, 10)
    assert got[[0, 2, 9]] == close(0.04, 1, 4e-6)


def test_s12_one_cycle_may_miss_its_peak_and_says_so() -> None:
    odd = make("OneCycleLR", max_lr=1, total_steps=11)
    assert rates(odd, 0.1, 11).max() == pytest.approx(0.9797, abs=5e-5)
    assert "misses its peak" in odd.notes(range(11))[0]
    assert make("OneCycleLR", max_lr=1, total_steps=10).notes(range(10)) == []
    assert rates(make("OneCycleLR", max_lr=1, total_steps=1), 0.1, 1) == close(4e-6)
    assert rates(make("OneCycleLR", max_lr=1, total_steps=2), 0.1, 2) == close(0.8117, 4e-6)
    early = make("OneCycleLR", max_lr=1, total_steps=6, pct_start=0)
    assert early.lr(0, 0.1) == pytest.approx(stepped(early.model_dump(), 0.1, 1).lr[0])


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_s13_one_cycle_holds_its_last_rate_where_torch_extrapolates_and_then_fails(
    strategy: Strategy,
) -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, max_lr=1, total_steps=10, anneal_strategy=strategy
    )
    optimizer.step()
    for _ in range(10):
        scheduler.step()
    beyond = optimizer.param_groups[0]["lr"]
    assert beyond == pytest.approx({"cos": 0.0495, "linear": -0.1429}[strategy], abs=5e-5)
    with pytest.raises(ValueError, match="Tried to step"):
        scheduler.step()
    schedule = make("OneCycleLR", max_lr=1, total_steps=10, anneal_strategy=strategy)
    assert rates(schedule, 0.1, 30)[9:] == pytest.approx([4e-6] * 21)
    assert [schedule.momentum(t) for t in (9, 10, 99)] == [0.95] * 3
    assert "ends at step 9" in schedule.notes(range(11))[0]


def test_s14_whole_numbers_are_fine_where_torch_wants_fractions() -> None:
    with pytest.raises(ValueError, match="pct_start"):
        lr_scheduler.OneCycleLR(sgd(), max_lr=1, total_steps=10, pct_start=1)
    assert make("OneCycleLR", max_lr=1, total_steps=10, pct_start=1).lr(9, 0.1) == 1
    with pytest.raises(ValidationError, match="total_steps"):
        make("OneCycleLR", max_lr=1, total_steps=10.0)


@pytest.mark.parametrize("kind", ["CyclicLR", "OneCycleLR"])
def test_s15_the_momentum_is_cycled_by_default_and_is_the_first_beta_where_there_are_betas(
    kind: str,
) -> None:
    params: dict[str, Any] = {"max_lr": 1}
    params |= {"total_steps": 30} if kind == "OneCycleLR" else {"base_lr": 0.1, "step_size_up": 4}
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    scheduler = getattr(lr_scheduler, kind)(adam, **params)
    adam.step()
    schedule = make(kind, **params)
    for t in range(30):
        assert schedule.momentum(t) == pytest.approx(adam.param_groups[0]["betas"][0], rel=1e-12)
        if t < 29:
            scheduler.step()


def test_s16_exp_range_shrinks_by_steps_and_triangular2_by_cycles() -> None:
    cycle = {"base_lr": 0, "max_lr": 1, "step_size_up": 2}
    by_cycles = rates(make("CyclicLR", mode="triangular2", **cycle), 0.1, 9)
    assert by_cycles.tolist() == [0, 0.5, 1, 0.5, 0, 0.25, 0.5, 0.25, 0]
    by_steps = rates(make("CyclicLR", mode="exp_range", gamma=0.5, **cycle), 0.1, 7)
    assert by_steps.tolist() == [0, 0.25, 0.25, 0.0625, 0, 1 / 64, 1 / 64]


def test_s17_warm_restarts_never_reach_the_floor() -> None:
    got = rates(make("CosineAnnealingWarmRestarts", T_0=5, eta_min=0.01), 0.1, 50)
    assert got.min() == pytest.approx(0.01 + 0.09 * (1 + np.cos(0.8 * np.pi)) / 2)


@pytest.mark.parametrize(("times", "restart"), [(3, 121), (10, 111)])
def test_s18_a_jump_to_a_restart_restarts_where_torchs_logarithm_misses_it(
    times: int, restart: int
) -> None:
    optimizer = sgd()
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=times)
    optimizer.step()
    scheduler.step(restart)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    params = {"type": "CosineAnnealingWarmRestarts", "T_0": 1, "T_mult": times}
    assert stepped(params, 0.1, restart + 1).lr[restart] == pytest.approx(0.1)
    assert SCHEDULER.validate_python(params).lr(restart, 0.1) == 0.1


def test_s19_steps_are_whole_numbers() -> None:
    with pytest.raises(ValidationError, match="start"):
        CurveRequest(scheduler=make("CosineAnnealingWarmRestarts", T_0=10), base_lr=1, start=10.7)


def test_s20_warm_restarts_resume_past_the_second_cycle() -> None:
    params = {"type": "CosineAnnealingWarmRestarts", "T_0": 10, "T_mult": 2}
    optimizer = sgd()
    optimizer.param_groups[0]["initial_lr"] = 0.1
    lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2, last_epoch=34)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08536, abs=5e-6)
    assert stepped(params, 0.1, 36).lr[35] == pytest.approx(0.09619, abs=5e-6)
    assert SCHEDULER.validate_python(params).lr(35, 0.1) == pytest.approx(0.09619, abs=5e-6)
