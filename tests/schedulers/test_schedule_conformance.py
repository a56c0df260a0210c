"""Every scheduler against torch: against recorded curves, and stepped live."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance_table import Row, Table, reference_of
from schedule_samples import METRICS, SCHEDULER, measured, sample
from torch_schedules import PURE, cases, has_rates, inputs, stepped

from gradstep_server.schedulers import (
    NOTHING,
    SCHEDULERS,
    Followed,
    NegativeRate,
    Rates,
    Schedule,
)

FOLDER = Path(__file__).parents[1] / "golden" / "schedulers"
GRID = 60
STEPS = 1_200

LIVE = [
    pytest.param(name, marks=pytest.mark.conformance if kind.reference else ())
    for name, kind in SCHEDULERS.items()
]
"""Every kind; those that another library than torch defines, where it is installed."""


def excess(got: Rates, expected: Rates, base_lr: float) -> float:
    """Return the worst error as a share of what promise D9 allows."""
    allowed = 1e-9 * np.abs(expected) + 1e-12 * base_lr
    return float(np.max(np.abs(got - expected) / allowed))


def golden(kind: str) -> list[dict[str, Any]]:
    document = json.loads((FOLDER / f"{kind}.json").read_text())
    assert (document["kind"], document["path"]) == (kind, "chained")
    recorded: list[dict[str, Any]] = document["cases"]
    return recorded


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_curves_are_the_recorded_ones(kind: str) -> None:
    for case in golden(kind):
        expected = np.array(case["lr"])
        t = np.arange(len(expected))
        schedule = SCHEDULER.validate_python(case["params"])
        metrics = np.array(case.get("metrics", []), dtype=np.float64)
        rates = schedule.lrs(t, case["base_lr"], schedule.follow(NOTHING, metrics))
        assert excess(rates, expected, case["base_lr"]) <= 1
        assert schedule.moves_momentum == ("momentum" in case)
        if schedule.moves_momentum:
            assert excess(schedule.momentums(t), np.array(case["momentum"]), 1) <= 1


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_records_are_of_what_their_generator_draws(kind: str) -> None:
    recorded = [(case["params"], case["base_lr"]) for case in golden(kind)]
    assert recorded == inputs(kind)


@pytest.mark.parametrize("kind", LIVE)
def test_the_records_are_what_their_generator_writes(kind: str) -> None:
    recorded = golden(kind)
    fresh = cases(kind)
    for old, new in zip(recorded, fresh, strict=True):
        # libm may differ in the last bit from one machine to the next.
        np.testing.assert_allclose(old["lr"], new["lr"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            old.get("momentum", []), new.get("momentum", []), rtol=1e-12, atol=1e-14
        )


def until_negative(schedule: Schedule, base_lr: float, expected: Rates) -> int:
    """Return how many of torch's rates come before one below 0, which is refused."""
    negative = np.flatnonzero(expected < 0)
    if not negative.size:
        return expected.size
    with pytest.raises(NegativeRate) as caught:
        schedule.lrs(np.arange(expected.size), base_lr)
    assert caught.value.step == negative[0]
    return caught.value.step


def begun_anew(schedule: Schedule, base_lr: float, points: int) -> Rates:
    """Return each rate as it is where a run resumes just there, with what JSON has kept."""
    rates, kept = np.empty(points), NOTHING
    again = SCHEDULER.validate_json(schedule.model_dump_json())
    for t in range(points):
        rates[t] = again.lr(t, base_lr, kept)
        kept = again.follow(Followed(**asdict(kept)), METRICS[t : t + 1])
    return rates


@pytest.mark.parametrize("kind", LIVE)
def test_the_rates_are_those_of_stepping_torch(kind: str, conformance: Table) -> None:
    rng = random.Random(kind)
    worst, points = 0.0, 0
    for _ in range(GRID):
        # torch 2.13 refuses composites inside composites.
        params = sample(kind, rng, depth=2, plain=PURE)
        if not has_rates(params):
            continue
        # With eta_min 10,000 times base_lr torch's recursion drifts by more than the
        # tolerance, away from its own closed form.
        base_lr = 10 ** rng.uniform(-1.3, 1)
        expected = stepped(params, base_lr, STEPS)
        schedule = SCHEDULER.validate_python(params)
        t = np.arange(until_negative(schedule, base_lr, expected.lr))
        got, wanted = schedule.lrs(t, base_lr, measured(schedule)), expected.lr[t]
        np.testing.assert_array_equal(begun_anew(schedule, base_lr, t.size), got)
        worst, points = max(worst, excess(got, wanted, base_lr)), points + 1
        if schedule.moves_momentum:
            worst = max(worst, excess(schedule.momentums(t), expected.momentum[t], 1))
    reference = reference_of(SCHEDULERS[kind], "`LambdaLR` and Python")
    conformance.schedulers.append(Row(kind, reference, points, STEPS, (worst,)))
    assert points >= 50
    assert worst <= 1


RISE = {"type": "LinearLR", "start_factor": 0.1, "total_iters": 9}
FALL = {"type": "CosineAnnealingLR", "T_max": 90, "eta_min": 0.003}
AVERAGE = {"type": "SWALR", "swa_lr": 0.05}
CYCLE = {"type": "OneCycleLR", "max_lr": 1, "div_factor": 10, "total_steps": 1_200}
WAVES = {"type": "CyclicLR", "max_lr": 0.4, "step_size_up": 30}
HARMLESS = [
    ("SequentialLR", [FALL, AVERAGE], [75]),
    ("SequentialLR", [FALL, {**AVERAGE, "anneal_epochs": 0}], [75]),
    ("SequentialLR", [FALL, {**AVERAGE, "anneal_strategy": "linear", "anneal_epochs": 7}], [1]),
    ("SequentialLR", [AVERAGE, FALL], [20]),
    ("SequentialLR", [FALL, AVERAGE], [0]),
    ("SequentialLR", [FALL, AVERAGE, RISE], [40, 45]),
    ("SequentialLR", [RISE, CYCLE], [9]),
    ("SequentialLR", [WAVES, FALL, WAVES], [100, 200]),
    ("ChainedScheduler", [{"type": "ExponentialLR", "gamma": 0.99}, AVERAGE], None),
    ("ChainedScheduler", [AVERAGE, {"type": "StepLR", "step_size": 3, "gamma": 0.9}], None),
    ("ChainedScheduler", [WAVES, RISE], None),
    ("ChainedScheduler", [{"type": "ChainedScheduler", "schedulers": [RISE, FALL]}, RISE], None),
]
"""Composites of kinds that torch gives the right rates, if not beside just anything."""


@pytest.mark.parametrize(("kind", "schedulers", "milestones"), HARMLESS)
def test_composites_are_stepped_through_as_in_torch(
    kind: str, schedulers: list[dict[str, Any]], milestones: list[int] | None
) -> None:
    params: dict[str, Any] = {"type": kind, "schedulers": schedulers}
    if milestones is not None:
        params["milestones"] = milestones
    schedule = SCHEDULER.validate_python(params)
    expected = stepped(params, 0.1, STEPS)
    assert excess(schedule.lrs(np.arange(STEPS), 0.1), expected.lr, 0.1) <= 1


def test_a_cosine_is_stepped_through_both_below_and_above_t_max() -> None:
    for T_max in (1, 2, 7, 100, 599, 600, 601, 1_199, 1_200, 5_000):
        params = {"type": "CosineAnnealingLR", "T_max": T_max, "eta_min": 0.001}
        got = SCHEDULER.validate_python(params).lrs(np.arange(STEPS), 0.1)
        assert excess(got, stepped(params, 0.1, STEPS).lr, 0.1) <= 1
