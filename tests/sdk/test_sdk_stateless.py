"""Curves and the catalogue through both clients and the real application."""

from __future__ import annotations

import numpy as np
import pytest

import gradstep


def test_a_curve_has_a_rate_for_every_step(client: gradstep.Client) -> None:
    curve = client.schedules.curve({"type": "StepLR", "step_size": 2}, base_lr=0.1, steps=5)
    assert (curve.step.dtype.name, curve.lr.dtype.name) == ("int64", "float64")
    assert curve.step.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(curve.lr, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-12)
    assert curve.warnings == ()


def test_several_base_rates_give_one_curve_each(client: gradstep.Client) -> None:
    spec = {"type": "ExponentialLR", "gamma": 0.5}
    curve = client.schedules.curve(spec, base_lr=[0.1, 1.0], steps=3)
    assert curve.lr.tolist() == [[0.1, 0.05, 0.025], [1.0, 0.5, 0.25]]


def test_a_window_of_a_curve_equals_its_part(client: gradstep.Client) -> None:
    spec = {"type": "CosineAnnealingLR", "T_max": 50}
    whole = client.schedules.curve(spec, base_lr=0.1, steps=60)
    part = client.schedules.curve(spec, base_lr=0.1, steps=20, start=10, stride=5, last_epoch=9)
    assert part.step.tolist() == [20, 25, 30, 35]
    assert part.lr.tolist() == whole.lr[part.step].tolist()
    assert client.schedules.curve(spec, base_lr=0.1, steps=60, max_points=7).step.size <= 7


def test_a_schedule_that_moves_the_momentum_gives_it_too(client: gradstep.Client) -> None:
    cycle = {"type": "OneCycleLR", "max_lr": 1, "total_steps": 10, "pct_start": 0.3}
    curve = client.schedules.curve(cycle, base_lr=0.1, steps=3)
    assert curve.momentum is not None
    assert curve.momentum.tolist() == pytest.approx([0.95, 0.9, 0.85])
    then = {"type": "SequentialLR", "schedulers": [{"type": "LinearLR"}, cycle], "milestones": [1]}
    curve = client.schedules.curve(then, base_lr=0.1, steps=2)
    assert curve.momentum is not None
    assert np.isnan(curve.momentum).tolist() == [True, False]
    assert client.schedules.curve("LinearLR", base_lr=0.1, steps=3).momentum is None


def test_a_schedule_that_follows_a_metric_is_told_what_was_measured(
    client: gradstep.Client,
) -> None:
    plateau = {"type": "ReduceLROnPlateau", "patience": 1, "factor": 0.5}
    losses = np.array([3.0, np.nan, 3.0])
    curve = client.schedules.curve(plateau, base_lr=0.1, steps=4, metrics=losses)
    assert curve.lr.tolist() == [0.1, 0.1, 0.1, 0.05]


def test_a_curve_is_what_a_training_loop_makes_of_it(client: gradstep.Client) -> None:
    spec = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    curve = client.schedules.curve(
        spec,
        base_lr=1,
        steps=2,
        steps_per_epoch=3,
        gradient_accumulation=2,
        num_processes=2,
        unit="epoch",
    )
    assert curve.step.tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.lr.tolist() == [1, 1, 0.5, 0.25, 0.25, 0.125]
    assert curve.position is not None
    assert curve.position.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])
    by_epoch = client.schedules.curve(
        spec, base_lr=1, steps=4, steps_per_epoch=1, schedule_on="epoch", batch_size=8
    )
    assert (by_epoch.lr.tolist(), by_epoch.position) == ([1, 1, 0.5, 0.5], None)


def test_what_is_wrong_with_a_curve_is_named(client: gradstep.Client) -> None:
    with pytest.raises(gradstep.InvalidRequest) as caught:
        client.schedules.curve({"type": "StepLR", "step_size": 0}, base_lr=0.1, steps=5)
    assert caught.value.pointer == "/scheduler/step_size"


def test_the_catalogue_describes_every_kind(client: gradstep.Client) -> None:
    schedulers = {kind.type: kind for kind in client.schedulers()}
    optimizers = {kind.type: kind for kind in client.optimizers()}
    assert {"StepLR", "CosineAnnealingLR"} <= schedulers.keys()
    assert {"SGD", "AdamW"} <= optimizers.keys()
    step = schedulers["StepLR"]
    assert step.torch_name.endswith("StepLR")
    assert "step_size" in step.parameters["properties"]
    assert step.reference == ""
    assert schedulers["HFLinear"].reference.startswith("transformers.")
    assert step.summary in step.description
    assert step.formula
    assert (step.curve or "").startswith("/v1/schedules/StepLR?")
    assert optimizers["AdamW"].curve is None


def test_every_example_of_the_catalogue_is_a_curve(client: gradstep.Client) -> None:
    for kind in client.schedulers():
        for example in kind.examples:
            assert client.schedules.curve(example, base_lr=0.1, steps=3).lr.shape == (3,), example
