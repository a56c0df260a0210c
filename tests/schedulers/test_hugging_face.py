"""Hugging Face's schedules: names, values worked out by hand, and where gradstep differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from schedule_samples import SCHEDULER

from gradstep_server.schedulers import SCHEDULERS

NAMES = [
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
ELSEWHERE = {"constant", "reduce_lr_on_plateau", "greedy"}
"""No schedule at all, torch's own, and one that follows every step's loss."""

TRAINING = {"num_warmup_steps": 2, "num_training_steps": 10}
HALF = (1 + np.cos(np.pi * np.arange(9) / 8)) / 2
"""Half a cosine over eight steps."""


def rates(kind: str, points: int = 14, base_lr: float = 1.0, /, **params: Any) -> Any:
    schedule = SCHEDULER.validate_python({"type": kind, **params})
    return pytest.approx(schedule.lrs(np.arange(points), base_lr).tolist(), abs=1e-12)


def as_type(name: str) -> str:
    return "HF" + "".join(word.title() for word in name.split("_"))


def test_the_kinds_are_named_as_in_transformers_in_one_word() -> None:
    kinds = [name for name, kind in SCHEDULERS.items() if kind.reference]
    assert kinds == [as_type(name) for name in NAMES]


@pytest.mark.conformance
def test_every_kind_of_transformers_is_there_or_is_known_not_to_be() -> None:
    from transformers import SchedulerType  # noqa: PLC0415 - only this test needs it
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION  # noqa: PLC0415 - likewise

    assert {each.value for each in SchedulerType} == {*NAMES, *ELSEWHERE}
    for name in NAMES:
        function = TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
        assert SCHEDULERS[as_type(name)].reference == f"transformers.{function.__name__}"


def test_a_line_ends_at_0_and_stays_there() -> None:
    expected = [0, 0.5, *np.arange(8, 0, -1) / 8, 0, 0, 0, 0]
    assert rates("HFLinear", **TRAINING) == expected


def test_a_cosine_rises_again_past_the_end() -> None:
    assert rates("HFCosine", **TRAINING) == [0, 0.5, *HALF, *HALF[7:4:-1]]


def test_restarts_end_at_0_and_stay_there() -> None:
    twice = [0, 0.5, *HALF[:8:2], *HALF[:8:2], 0, 0, 0, 0]
    assert rates("HFCosineWithRestarts", num_cycles=2, **TRAINING) == twice


def test_a_polynomial_ends_at_the_rate_that_is_given_in_every_group() -> None:
    params = {"lr_end": 0.1, "power": 2, **TRAINING}
    for base_lr in (1.0, 0.5):
        left = np.arange(8, -1, -1) / 8
        expected = [0, base_lr / 2, *0.1 + (base_lr - 0.1) * left**2, 0.1, 0.1, 0.1]
        assert rates("HFPolynomial", 14, base_lr, **params) == expected


def test_a_polynomial_whose_warm_up_fills_the_training_ends_behind_it() -> None:
    params = {"num_warmup_steps": 3, "num_training_steps": 3, "lr_end": 0.1}
    assert rates("HFPolynomial", 6, **params) == [0, 1 / 3, 2 / 3, 0.1, 0.1, 0.1]


def test_a_constant_is_reached_and_kept() -> None:
    assert rates("HFConstantWithWarmup", 5, num_warmup_steps=2) == [0, 0.5, 1, 1, 1]
    assert rates("HFConstantWithWarmup", 2, num_warmup_steps=0) == [1, 1]


def test_an_inverse_root_is_halved_after_three_times_its_timescale() -> None:
    expected = [0, 0.5, *np.sqrt(2 / np.arange(2, 9))]
    assert rates("HFInverseSqrt", 9, num_warmup_steps=2) == expected
    assert expected[8] == 0.5
    endless = SCHEDULER.validate_python({"type": "HFInverseSqrt", "num_warmup_steps": 0})
    assert endless.lr(30_000, 1.0) == pytest.approx(0.5)


def test_a_floor_is_a_rate_or_a_share_and_the_same_in_every_group() -> None:
    for base_lr in (1.0, 0.5):
        expected = [0, base_lr / 2, *0.1 + (base_lr - 0.1) * HALF]
        by_rate = rates("HFCosineWithMinLr", 11, base_lr, min_lr=0.1, **TRAINING)
        by_share = rates("HFCosineWithMinLr", 11, base_lr, min_lr_rate=0.1 / base_lr, **TRAINING)
        assert by_rate == expected
        assert by_share == expected


def test_a_warm_up_from_above_0_ends_at_the_top() -> None:
    first = [0.2, 1, *0.1 + 0.9 * HALF[1:]]
    params = {"min_lr": 0.1, **TRAINING}
    assert rates("HFCosineWarmupWithMinLr", 10, warmup_lr_rate=0.2, **params) == first
    assert rates("HFCosineWarmupWithMinLr", 10, **params) == [0.5, *first[1:]]


def test_a_stable_rate_is_held_until_the_decay() -> None:
    params = {"num_decay_steps": 4, "num_training_steps": 10, "num_warmup_steps": 2}
    decay = [1, 0.85355339, 0.5, 0.14644661, 0, 0, 0, 0]
    got = SCHEDULER.validate_python({"type": "HFWarmupStableDecay", **params})
    assert got.lrs(np.arange(14), 1.0) == pytest.approx([0, 0.5, 1, 1, 1, 1, *decay], abs=1e-8)
    roots = {**params, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "min_lr_ratio": 0.5}
    rise = 0.5 + 0.5 * (1 - np.sqrt(0.5))
    fall = 0.5 + 0.5 * (1 - np.sqrt(np.arange(4) / 4))
    expected = [0.5, rise, 1, 1, 1, 1, *fall, 0.5, 0.5, 0.5, 0.5]
    assert rates("HFWarmupStableDecay", **roots) == expected


@pytest.mark.parametrize(
    ("kind", "more", "end", "what"),
    [
        ("HFLinear", {}, 10, "reaches 0 at step 110 "),
        ("HFCosineWithRestarts", {}, 10, "reaches 0 at step 110 "),
        ("HFCosine", {}, 11, "goes on past step 110 "),
        ("HFCosineWithMinLr", {"min_lr": 0}, 11, "goes on past step 110 "),
        ("HFCosineWarmupWithMinLr", {"min_lr": 0}, 11, "goes on past step 110 "),
    ],
)
def test_what_happens_at_the_end_is_said_once_it_is_seen(
    kind: str, more: dict[str, Any], end: int, what: str
) -> None:
    schedule = SCHEDULER.validate_python({"type": kind, **TRAINING, **more})
    assert schedule.notes(range(end), 100) == []
    (note,) = schedule.notes(range(end + 1), 100)
    assert what in note
