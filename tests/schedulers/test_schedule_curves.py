"""Windows, chunks and decimation."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from schedule_samples import SCHEDULER, sample_any

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import (
    Curve,
    RateError,
    RateOverflow,
    Rates,
    Steps,
    WindowError,
    window,
)
from gradstep_server.schedulers.curve import CHUNK, MIN_DECIMATED


def curve(params: dict[str, Any], points: range, *base_lrs: float) -> Curve:
    return Curve(SCHEDULER.validate_python(params), base_lrs or (0.1,), points)


def drawn(curve: Curve, group: int = 0) -> tuple[Steps, Rates]:
    return np.concatenate(list(curve.steps())), np.concatenate(list(curve.lrs(group)))


def test_a_window_holds_the_points_below_its_span() -> None:
    assert list(window(5)) == [0, 1, 2, 3, 4]
    assert list(window(5, stride=2)) == [0, 2, 4]
    assert list(window(6, stride=2)) == [0, 2, 4]
    assert list(window(1, stride=9)) == [0]
    assert list(window(3, start=10, last_epoch=4)) == [15, 16, 17]


def test_a_window_may_end_at_the_largest_exact_integer() -> None:
    assert window(1, start=MAX_COUNT)[-1] == MAX_COUNT
    assert len(window(MAX_COUNT, stride=2**40)) == 2**13
    with pytest.raises(WindowError, match="must end by step") as caught:
        window(2, start=MAX_COUNT)
    assert caught.value.field == "steps"
    with pytest.raises(WindowError, match="must end by step"):
        window(1, last_epoch=MAX_COUNT)


def test_a_window_counts_points_against_its_limit() -> None:
    assert len(window(10_000_000)) == 10_000_000
    assert len(window(10_000_001, stride=2)) == 5_000_001
    with pytest.raises(WindowError, match="10000001 points are more than 10000000") as caught:
        window(10_000_001)
    assert caught.value.field == "steps"
    with pytest.raises(WindowError, match="more than 7"):
        window(8, limit=7)


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17])
def test_chunks_of_steps_and_rates_match_and_make_the_whole(count: int) -> None:
    points = window(count * 3, start=4, stride=3)
    line = curve({"type": "StepLR", "step_size": 1_000, "gamma": 0.99}, points, 0.1, 0.5)
    assert len(line) == count
    sizes = [part.size for part in line.steps()]
    assert sizes == [part.size for part in line.lrs(1)]
    assert max(sizes) <= CHUNK
    t, rates = drawn(line, group=1)
    np.testing.assert_array_equal(t, np.arange(4, 4 + 3 * count, 3))
    np.testing.assert_array_equal(rates, line.schedule.lrs(t, 0.5))


def test_a_long_curve_needs_the_memory_of_a_chunk() -> None:
    line = curve({"type": "CosineAnnealingLR", "T_max": 1_000}, window(1_000_000))
    tracemalloc.start()
    try:
        line.ensure_finite()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * CHUNK * 8


def test_an_overflow_is_found_before_anything_is_drawn() -> None:
    growing = {"type": "StepLR", "step_size": 1_000, "gamma": 10}
    curve(growing, window(300_000), 1.0, 2.0).ensure_finite()
    with pytest.raises(RateOverflow, match="step 308000 ") as caught:
        curve(growing, window(400_000), 1.0, 2.0).ensure_finite()
    assert caught.value.step == 308_000


def test_a_curve_has_the_notes_of_its_window() -> None:
    cosine = {"type": "CosineAnnealingLR", "T_max": 50}
    assert curve(cosine, window(51)).notes() == []
    (note,) = curve(cosine, window(100, stride=30)).notes()
    assert "turns round at step 50" in note


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 3_000),
    stride=st.integers(1, 3),
    max_points=st.integers(MIN_DECIMATED, 400),
)
def test_decimation_keeps_both_ends_and_every_buckets_extremes(
    seed: int, steps: int, stride: int, max_points: int
) -> None:
    params = sample_any(random.Random(seed), depth=3)
    full = curve(params, window(steps, start=7, stride=stride))
    try:
        t, rates = drawn(full)
    except RateError:
        reject()
    kept_t, kept = drawn(full.decimated(max_points))
    assert kept_t.size <= max_points
    assert (np.diff(kept_t) > 0).all()
    assert (kept_t[0], kept_t[-1]) == (t[0], t[-1])
    index = np.searchsorted(t, kept_t)
    np.testing.assert_array_equal(kept, rates[index])
    if t.size <= max_points:
        assert kept_t.size == t.size
        return
    size = -(-(t.size - 2) // ((max_points - 2) // 2))
    for begin in range(1, t.size - 1, size):
        bucket = rates[begin : min(begin + size, t.size - 1)]
        inside = kept[(index >= begin) & (index < begin + bucket.size)]
        assert inside.min() == bucket.min()
        assert inside.max() == bucket.max()


def test_decimation_uses_the_points_that_it_may() -> None:
    wave = curve({"type": "CosineAnnealingLR", "T_max": 10}, window(100_000))
    assert 990 <= len(wave.decimated(1_000)) <= 1_000


@pytest.mark.parametrize("max_points", [4, 10, 51])
def test_a_fall_and_a_rise_keep_their_places(max_points: int) -> None:
    fall = curve({"type": "MultiStepLR", "milestones": [3_333]}, window(10_000))
    assert {3_332, 3_333} <= set(drawn(fall.decimated(max_points))[0].tolist())
    rise = curve({"type": "ConstantLR", "factor": 0.5, "total_iters": 7_001}, window(10_000))
    assert {7_000, 7_001} <= set(drawn(rise.decimated(max_points))[0].tolist())


def test_a_spike_of_a_single_step_stays_visible() -> None:
    low = {"type": "ConstantLR", "factor": 0.1, "total_iters": 10_000}
    parts = [low, {"type": "StepLR", "step_size": 1}, low]
    params = {"type": "SequentialLR", "schedulers": parts, "milestones": [4_321, 4_322]}
    t, rates = drawn(curve(params, window(9_000), 1.0).decimated(40))
    assert rates.max() == 1.0
    assert t[rates.argmax()] == 4_321


def test_a_stretch_that_is_flat_keeps_its_ends() -> None:
    flat = curve({"type": "MultiStepLR", "milestones": []}, window(1_002)).decimated(12)
    assert drawn(flat)[0].tolist() == [0, 1, 200, 201, 400, 401, 600, 601, 800, 801, 1_000, 1_001]


def test_all_groups_keep_the_points_of_the_largest_base_rate() -> None:
    params = {"type": "CosineAnnealingLR", "T_max": 37}
    alone = curve(params, window(5_000), 0.5).decimated(100)
    both = curve(params, window(5_000), 0.0, 0.5).decimated(100)
    np.testing.assert_array_equal(drawn(both)[0], drawn(alone)[0])
    np.testing.assert_array_equal(drawn(both, group=1)[1], drawn(alone)[1])
    assert (drawn(both)[1] == 0).all()


def test_decimating_twice_decimates_the_kept_points() -> None:
    wave = curve({"type": "CosineAnnealingLR", "T_max": 500}, window(5_000))
    once = wave.decimated(400)
    twice = once.decimated(20)
    assert len(twice) <= 20
    assert set(drawn(twice)[0].tolist()) <= set(drawn(once)[0].tolist())


def test_too_few_points_are_refused() -> None:
    with pytest.raises(WindowError, match="At least 4") as caught:
        curve({"type": "StepLR", "step_size": 5}, window(10)).decimated(3)
    assert caught.value.field == "max_points"
