"""What a training loop makes of a schedule, beside loops that really are run."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_samples import METRICS, SCHEDULER
from torch_schedules import build

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import NOTHING, Curve, Loop, OutOfReach, WindowError, window
from gradstep_server.schedulers.curve import OWN_STEPS

WARM_UP = {"type": "HFLinear", "num_warmup_steps": 8, "num_training_steps": 60}
COSINE: dict[str, Any] = {"type": "CosineAnnealingLR", "T_max": 40}
TORCH: dict[str, dict[str, Any]] = {
    "StepLR": {"type": "StepLR", "step_size": 3, "gamma": 0.5},
    "CosineAnnealingLR": COSINE,
    "SequentialLR": {
        "type": "SequentialLR",
        "schedulers": [{"type": "LinearLR", "total_iters": 5}, COSINE],
        "milestones": [5],
    },
    "ReduceLROnPlateau": {"type": "ReduceLROnPlateau", "patience": 2, "factor": 0.5},
}


def trained(params: dict[str, Any], loop: Loop, epochs: int) -> list[float]:
    """Run a loop in torch, and return the rate that the optimizer has at each batch."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = build(params, optimizer)
    metrics = iter(METRICS.tolist())

    def step_the_scheduler() -> None:
        measured = [next(metrics)] if params["type"] == "ReduceLROnPlateau" else []
        # What accelerate does with a batch of each process, unless it split one batch.
        for _ in range(loop.num_processes):
            scheduler.step(*measured)

    rates = []
    batches = loop.steps_per_epoch or 0
    for _ in range(epochs):
        for batch in range(1, batches + 1):
            rates.append(optimizer.param_groups[0]["lr"])
            weight.grad = torch.ones(1)
            if batch % loop.gradient_accumulation == 0 or batch == batches:
                optimizer.step()
                optimizer.zero_grad()
                if loop.schedule_on == "step":
                    step_the_scheduler()
        if loop.schedule_on == "epoch":
            step_the_scheduler()
    return rates


@pytest.mark.parametrize("schedule_on", ["step", "epoch"])
@pytest.mark.parametrize("num_processes", [1, 4])
@pytest.mark.parametrize(("steps_per_epoch", "accumulation"), [(6, 1), (6, 3), (7, 3), (2, 5)])
@pytest.mark.parametrize("kind", TORCH)
def test_the_preview_is_what_the_loop_does(
    kind: str,
    steps_per_epoch: int,
    accumulation: int,
    num_processes: int,
    schedule_on: Literal["step", "epoch"],
) -> None:
    loop = Loop(steps_per_epoch, accumulation, num_processes, None, schedule_on, "epoch")
    schedule = SCHEDULER.validate_python(TORCH[kind])
    followed = schedule.follow(NOTHING, np.repeat(METRICS, num_processes))
    curve = Curve(schedule, (0.1,), window(5, loop=loop), followed, loop)
    (rates,) = curve.lrs()
    assert rates == pytest.approx(trained(TORCH[kind], loop, 5), rel=1e-9, abs=1e-13)


def counted_one_by_one(loop: Loop, steps: int) -> list[int]:
    """Count how often the schedule was stepped before each step of a loop."""
    calls, waiting, counts = 0, 0, []
    for step in range(1, steps + 1):
        counts.append(calls)
        waiting += 1
        ended = loop.steps_per_epoch is not None and step % loop.steps_per_epoch == 0
        updates = waiting == loop.gradient_accumulation or ended
        if updates:
            waiting = 0
        if ended if loop.schedule_on == "epoch" else updates:
            calls += loop.num_processes
    return counts


@settings(derandomize=True, deadline=None)
@given(
    st.builds(
        Loop,
        steps_per_epoch=st.integers(1, 30),
        gradient_accumulation=st.integers(1, 40),
        num_processes=st.integers(1, 5),
        schedule_on=st.sampled_from(["step", "epoch"]),
    )
    | st.builds(Loop, gradient_accumulation=st.integers(1, 9), num_processes=st.integers(1, 5))
)
def test_any_loop_counts_as_if_it_were_run(loop: Loop) -> None:
    expected = counted_one_by_one(loop, 100)
    assert loop.counted(np.arange(100)).tolist() == expected
    assert [loop.counted(step) for step in range(100)] == expected


@settings(derandomize=True, deadline=None)
@given(
    st.builds(
        Loop,
        steps_per_epoch=st.integers(1, 30),
        num_processes=st.integers(1, 5),
        batch_size=st.integers(1, 9),
        unit=st.sampled_from(["step", "epoch", "sample"]),
    ),
    st.integers(0, 200),
    st.integers(1, 200),
)
def test_a_window_holds_the_steps_that_begin_in_it(loop: Loop, start: int, length: int) -> None:
    places = loop.places(np.arange(13_000))
    inside = np.flatnonzero((places >= start) & (places < start + length))
    if inside.size:
        assert list(window(length, start=start, loop=loop)) == inside.tolist()
    else:
        with pytest.raises(WindowError, match="No step of the loop begins in it"):
            window(length, start=start, loop=loop)


HALF = MAX_COUNT // 2


@pytest.mark.parametrize(
    ("loop", "last"),
    [
        (Loop(num_processes=2), HALF),
        (Loop(batch_size=2, unit="sample"), 2 * HALF),
        (Loop(steps_per_epoch=2, unit="epoch"), HALF - 1),
    ],
)
def test_a_window_ends_before_any_count_is_too_large(loop: Loop, last: int) -> None:
    assert loop.furthest_count(window(1, start=last, loop=loop)[-1]) in {
        MAX_COUNT - 1,
        MAX_COUNT - 2,
    }
    with pytest.raises(WindowError, match="must end by step"):
        window(3, start=last, loop=loop)


def test_a_loop_that_steps_after_every_batch_changes_nothing() -> None:
    steps = np.arange(5)
    assert Loop(steps_per_epoch=2, unit="epoch").counted(steps) is steps
    assert Loop(batch_size=32, num_processes=1, unit="sample").counted(steps) is steps


def test_places_are_told_in_the_unit() -> None:
    steps = np.arange(4)
    assert Loop().places(steps).tolist() == [0, 1, 2, 3]
    assert Loop(steps_per_epoch=2, unit="epoch").places(steps).tolist() == [0, 0.5, 1, 1.5]
    samples = Loop(num_processes=4, batch_size=8, gradient_accumulation=2, unit="sample")
    assert samples.places(steps).tolist() == [0, 32, 64, 96]


def test_warnings_say_whose_steps_they_name() -> None:
    schedule = SCHEDULER.validate_python(WARM_UP)
    loop = Loop(num_processes=4)
    assert Curve(schedule, (0.1,), window(15, loop=loop), loop=loop).notes() == []
    (note,) = Curve(schedule, (0.1,), window(16, loop=loop), loop=loop).notes()
    assert note.endswith(OWN_STEPS)
    assert "reaches 0 at step 60 " in note


def test_a_chain_cannot_be_outrun_by_many_processes() -> None:
    chain = {"type": "ChainedScheduler", "schedulers": [{"type": "LinearLR"}]}
    loop = Loop(num_processes=10_000_000)
    curve = Curve(SCHEDULER.validate_python(chain), (0.1,), window(4, loop=loop), loop=loop)
    with pytest.raises(OutOfReach):
        curve.ensure_finite()
