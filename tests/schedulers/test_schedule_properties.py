"""What holds for every schedule: slice = whole, resume = uninterrupted, nesting."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from schedule_samples import COMPOSITES, PLAIN, SCHEDULER, measured, sample, sample_any

from gradstep_server.schedulers import (
    SCHEDULERS,
    Curve,
    RateError,
    Rates,
    Schedule,
    chained_scheduler,
    window,
)

SPAN = 3_000
LEAST, MOST = 1e-6, 10.0
RESTARTING = [name for name in PLAIN if not SCHEDULERS[name].continues]
BASE_LRS = st.floats(LEAST, MOST)


@st.composite
def schedules(draw: st.DrawFn, depth: int = 3) -> Schedule:
    """Any scheduler whose rates can be used, composites nested at most `depth` deep."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    schedule = SCHEDULER.validate_python(sample(rng.choice([*SCHEDULERS]), rng, depth))
    try:
        # Between two base rates a chain's rates lie between theirs.
        for base_lr in (LEAST, MOST):
            schedule.lrs(np.arange(SPAN), base_lr, measured(schedule))
    except RateError:
        reject()
    return schedule


def line(schedule: Schedule, base_lr: float, points: range) -> Rates:
    return np.concatenate(list(Curve(schedule, (base_lr,), points, measured(schedule)).lrs()))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    schedule=schedules(),
    base_lr=BASE_LRS,
    start=st.integers(0, 2_000),
    steps=st.integers(1, 1_000),
    stride=st.integers(1, 70),
)
def test_a_slice_is_the_whole_bit_for_bit(
    schedule: Schedule, base_lr: float, start: int, steps: int, stride: int
) -> None:
    whole = line(schedule, base_lr, window(SPAN))
    part = line(schedule, base_lr, window(steps, start=start, stride=stride))
    np.testing.assert_array_equal(part, whole[start : start + steps : stride])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(schedule=schedules(), base_lr=BASE_LRS, data=st.data())
def test_steps_in_any_order_and_layout_give_the_same_rates(
    schedule: Schedule, base_lr: float, data: st.DataObject
) -> None:
    t = np.arange(SPAN)
    whole = schedule.lrs(t, base_lr, measured(schedule))
    order = np.random.default_rng(data.draw(st.integers(0, 2**32))).permutation(SPAN)
    np.testing.assert_array_equal(schedule.lrs(order, base_lr, measured(schedule)), whole[order])
    np.testing.assert_array_equal(schedule.lrs(t[::-3], base_lr, measured(schedule)), whole[::-3])
    np.testing.assert_array_equal(t, np.arange(SPAN))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_length_and_a_single_step_give_the_same_bits(kind: str) -> None:
    # SIMD code treats the end of an array apart, at lengths that depend on the machine.
    rng = random.Random(kind)
    for _ in range(3):
        schedule = SCHEDULER.validate_python(sample(kind, rng))
        whole = schedule.lrs(np.arange(400), 0.1, measured(schedule))
        for length in range(68):
            part = schedule.lrs(np.arange(300, 300 + length), 0.1, measured(schedule))
            np.testing.assert_array_equal(part, whole[300 : 300 + length])
        for t in range(400):
            assert schedule.lr(t, 0.1, measured(schedule)) == whole[t]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(schedule=schedules(), base_lr=BASE_LRS, last_epoch=st.integers(-1, 2_000))
def test_a_resumed_curve_is_the_rest_of_the_uninterrupted_one(
    schedule: Schedule, base_lr: float, last_epoch: int
) -> None:
    whole = line(schedule, base_lr, window(SPAN))
    resumed = line(schedule, base_lr, window(900, last_epoch=last_epoch))
    np.testing.assert_array_equal(resumed, whole[last_epoch + 1 : last_epoch + 901])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(schedule=schedules())
def test_a_rate_of_zero_stays_zero_unless_a_parameter_is_a_rate_itself(
    schedule: Schedule,
) -> None:
    rates = schedule.lrs(np.arange(SPAN), 0.0, measured(schedule))
    assert (rates >= 0).all()
    if not re.search('"(eta_min|lr_end|[a-z]+_lr)":[0-9]|"expression"', schedule.model_dump_json()):
        assert (rates == 0).all()


@pytest.mark.parametrize("kind", PLAIN)
def test_moves_from_step_to_step_lead_to_the_rates(kind: str) -> None:
    rng = random.Random(kind)
    t = np.arange(SPAN)
    for _ in range(20):
        schedule = SCHEDULER.validate_python(sample(kind, rng))
        # A floor 10,000 times base_lr lets the recursion drift, as in torch.
        base_lr = 10 ** rng.uniform(-1.3, 1)
        rate, rates = base_lr, []
        for a, b in zip(*schedule.affine(t, base_lr), strict=True):
            rate = a * rate + b
            rates.append(rate)
        expected = schedule.lrs(t, base_lr)
        np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-12 * base_lr)


def nested(
    rng: random.Random,
    depth: int,
    plain: Sequence[str] = PLAIN,
    composites: Sequence[str] = COMPOSITES,
) -> dict[str, Any]:
    """Draw a composite that is exactly `depth` deep."""
    if depth == 1:
        return sample_any(rng, 1, plain)
    schedulers = [sample_any(rng, 1, plain) for _ in range(rng.randint(0, 2))]
    schedulers.insert(rng.randint(0, len(schedulers)), nested(rng, depth - 1, plain, composites))
    drawn: dict[str, Any] = {"type": rng.choice(composites), "schedulers": schedulers}
    if drawn["type"] == "SequentialLR":
        drawn["milestones"] = sorted(rng.sample(range(150), len(schedulers) - 1))
    return drawn


def in_charge(params: Mapping[str, Any], t: int) -> tuple[Mapping[str, Any], int]:
    """Return the innermost scheduler in charge at t, with its own t."""
    while params["type"] in COMPOSITES:
        past = [milestone for milestone in params["milestones"] if milestone <= t]
        params, t = params["schedulers"][len(past)], t - max(past, default=0)
    return params, t


@pytest.mark.parametrize("depth", range(1, 9))
def test_nested_sequences_hand_over_to_the_innermost_scheduler(depth: int) -> None:
    rng = random.Random(depth)
    for _ in range(3):
        params = nested(rng, depth, RESTARTING, ["SequentialLR"])
        rates = SCHEDULER.validate_python(params).lrs(np.arange(400), 0.1)
        for t in range(400):
            inner, own_t = in_charge(params, t)
            assert rates[t] == SCHEDULER.validate_python(inner).lr(own_t, 0.1)


@pytest.mark.parametrize("depth", range(1, 9))
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    base_lr=BASE_LRS,
    last_epoch=st.integers(-1, 1_500),
    start=st.integers(0, 500),
    stride=st.integers(1, 70),
)
def test_any_window_and_any_resume_of_any_nesting_is_the_slice_of_the_whole(
    depth: int, seed: int, base_lr: float, last_epoch: int, start: int, stride: int
) -> None:
    schedule = SCHEDULER.validate_python(nested(random.Random(seed), depth))
    try:
        whole = line(schedule, base_lr, window(SPAN))
    except RateError:
        reject()
    first = last_epoch + 1 + start
    # Nothing that was computed for the whole may help the part.
    chained_scheduler._trail.cache_clear()
    part = line(schedule, base_lr, window(900, start=start, stride=stride, last_epoch=last_epoch))
    np.testing.assert_array_equal(part, whole[first : first + 900 : stride])
    momentums = schedule.momentums(np.arange(SPAN))
    np.testing.assert_array_equal(
        schedule.momentums(np.arange(first, SPAN, stride)), momentums[first::stride]
    )


EXAMPLES = [(name, example) for name, kind in SCHEDULERS.items() for example in kind.examples]


@pytest.mark.parametrize(("kind", "example"), EXAMPLES, ids=map(str, range(len(EXAMPLES))))
def test_a_curve_resumes_at_every_step_of_every_example(kind: str, example: Any) -> None:
    schedule = SCHEDULER.validate_python({"type": kind, **example})
    whole = line(schedule, 0.1, window(122))
    for last_epoch in range(-1, 119):
        resumed = line(schedule, 0.1, window(2, last_epoch=last_epoch))
        np.testing.assert_array_equal(resumed, whole[last_epoch + 1 : last_epoch + 3])
