"""What schedules move in a session beside the rate, held against torch; and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from session_states import (
    Array,
    captured,
    config,
    frozen,
    packed_all,
    restored,
    started,
    take,
    values,
)
from torch_optimizers import build, examples, numbers_of

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.commands import altered
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import InvalidConfig
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked

SHAPE = (3, 2)
START = np.linspace(-1.0, 1.0, 6).reshape(SHAPE)
ONE_CYCLE = {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 30}
CYCLIC = {"type": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4}
COSINE = {"type": "CosineAnnealingLR", "T_max": 20, "eta_min": 0.01}
SGD = {"type": "SGD", "lr": 0.1}
EXAMPLES = [
    example
    for kind in OPTIMIZERS
    if kind != "Muon"  # whose numbers are not torch's to the last digits
    for example in examples(kind)
]


def with_a(hyperparameter: str) -> list[dict[str, Any]]:
    """Return examples of the optimizers that have it."""
    return [params for params in EXAMPLES if OPTIMIZERS[params["type"]].has(hyperparameter)]


def gradient(n: int) -> Array:
    return np.random.default_rng(n).normal(size=SHAPE)


def session(optimizer: dict[str, Any], **more: Any) -> State:
    return started(config(optimizer, **more), packed_all({"w": START}))


def stepped(state: State, n: int) -> Array:
    take(state, packed_all({"w": gradient(n)}))
    return values(state, "w")


def in_torch(optimizer: dict[str, Any]) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    weight = torch.tensor(START)
    return weight, build(optimizer, [weight])


def close(got: Array, weight: torch.Tensor) -> bool:
    expected = weight.numpy()
    return bool(np.abs(got - expected).max() <= 1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("optimizer", with_a("momentum"), ids=str)
@pytest.mark.parametrize("schedule", [ONE_CYCLE, CYCLIC])
def test_a_session_cycles_the_momentum_as_torch_does(
    optimizer: dict[str, Any], schedule: dict[str, Any]
) -> None:
    state = session(optimizer, scheduler=schedule)
    weight, reference = in_torch(optimizer)
    arguments = {key: value for key, value in schedule.items() if key != "type"}
    scheduler = getattr(torch.optim.lr_scheduler, schedule["type"])(reference, **arguments)
    for n in range(1, 30):
        weight.grad = torch.tensor(gradient(n))
        group = reference.param_groups[0]
        used = group["betas"][0] if "betas" in group else group["momentum"]
        with numbers_of([weight]):
            reference.step()
        scheduler.step()
        record = take(state, packed_all({"w": gradient(n)}))
        assert record.momentum == pytest.approx(used, rel=1e-12)
        assert close(values(state, "w"), weight)


@pytest.mark.parametrize("optimizer", with_a("weight_decay"), ids=str)
def test_a_session_moves_the_weight_decay_of_every_group(optimizer: dict[str, Any]) -> None:
    optimizer = {**optimizer, "weight_decay": 0.2}
    groups = [{"match": ["b"], "weight_decay": 0.05, "lr": 0.01}]
    settings = config(optimizer, weight_decay_scheduler=COSINE, param_groups=groups)
    state = started(settings, packed_all({"w": START, "b": START}))
    pairs = [in_torch(optimizer), in_torch({**optimizer, "weight_decay": 0.05, "lr": 0.01})]
    for n in range(1, 30):
        record = take(state, packed_all({"w": gradient(n), "b": gradient(n)}))
        share = (1 + np.cos(np.pi * min(n - 1, 40 - (n - 1)) / 20)) / 2
        expected = [0.01 + (base - 0.01) * share for base in (0.2, 0.05)]
        assert record.weight_decay == pytest.approx(expected, rel=1e-9)
        decays = record.weight_decay or []
        for name, (weight, reference), decay in zip("wb", pairs, decays, strict=True):
            reference.param_groups[0]["weight_decay"] = decay
            weight.grad = torch.tensor(gradient(n))
            with numbers_of([weight]):
                reference.step()
            assert close(values(state, name), weight)


def test_where_the_schedule_sets_no_momentum_the_optimizer_keeps_its_own() -> None:
    parts = [ONE_CYCLE | {"total_steps": 3}, {"type": "ConstantLR", "factor": 1}]
    schedule = {"type": "SequentialLR", "schedulers": parts, "milestones": [3]}
    state = session({**SGD, "momentum": 0.5}, scheduler=schedule)
    records = [take(state, packed_all({"w": gradient(n)})) for n in range(5)]
    momentums = [record.momentum for record in records]
    assert momentums[3:] == [None, None]
    assert None not in momentums[:3]


def test_a_skipped_step_moves_momentum_and_decay_on() -> None:
    more = {"scheduler": ONE_CYCLE, "weight_decay_scheduler": COSINE, "on_nonfinite": "skip"}
    state = session({**SGD, "weight_decay": 0.1}, **more)
    take(state, packed_all({"w": np.full(SHAPE, np.nan)}))
    record = take(state, packed_all({"w": gradient(1)}))
    other = session({**SGD, "weight_decay": 0.1}, **more)
    take(other, packed_all({"w": gradient(0)}))
    again = take(other, packed_all({"w": gradient(1)}))
    assert (record.momentum, record.weight_decay) == (again.momentum, again.weight_decay)


def test_a_client_that_sets_the_rate_leaves_momentum_and_decay_alone() -> None:
    state = session(
        {**SGD, "weight_decay": 0.1}, scheduler=ONE_CYCLE, weight_decay_scheduler=COSINE
    )
    record = take(state, packed_all({"w": gradient(1)}), Asked(lr=0.5))
    assert (record.lr, record.momentum, record.weight_decay) == ([0.5], 0.95, [0.1])


def test_a_snapshot_taken_between_steps_goes_on_with_both_schedules() -> None:
    optimizer = {**SGD, "weight_decay": 0.1}
    state = session(optimizer, scheduler=CYCLIC, weight_decay_scheduler=COSINE)
    for n in range(3):
        stepped(state, n)
    altering = ConfigPatch.model_validate({"weight_decay_scheduler": COSINE})
    state = altered(state, altering)
    assert state.decay_origin == 3
    other = restored(*captured(state))
    for n in range(3, 9):
        np.testing.assert_array_equal(stepped(state, n), stepped(other, n))
    assert frozen(state)[1] == frozen(other)[1]


def test_a_new_schedule_of_the_rate_leaves_that_of_the_decay_where_it_is() -> None:
    state = session({**SGD, "weight_decay": 0.1}, weight_decay_scheduler=COSINE)
    for n in range(4):
        stepped(state, n)
    changed = altered(state, ConfigPatch.model_validate({"scheduler": ONE_CYCLE}))
    assert (changed.origin, changed.decay_origin) == (4, 0)
    assert changed.weight_decays() == state.weight_decays() != [0.1]


def test_memory_is_counted_for_a_momentum_that_will_move() -> None:
    plain, cycling = session(SGD), session(SGD, scheduler=ONE_CYCLE)
    assert (plain.nbytes, cycling.nbytes) == (6 * 8, 2 * 6 * 8)
    stepped(cycling, 1)
    held = sum(
        array.nbytes
        for array in (cycling.tensors["w"].values, *cycling.tensors["w"].slots.values())
    )
    assert held == cycling.nbytes


PLATEAU = {"type": "ReduceLROnPlateau"}


@pytest.mark.parametrize(
    ("more", "at"),
    [
        ({"scheduler": PLATEAU}, "/scheduler"),
        ({"weight_decay_scheduler": PLATEAU}, "/weight_decay_scheduler"),
        ({"weight_decay_scheduler": PLATEAU, "schedule_on": "epoch"}, "/weight_decay_scheduler"),
        ({"weight_decay_scheduler": ONE_CYCLE}, "/weight_decay_scheduler"),
        (
            {
                "weight_decay_scheduler": {
                    "type": "ChainedScheduler",
                    "schedulers": [CYCLIC, COSINE],
                }
            },
            "/weight_decay_scheduler",
        ),
    ],
)
def test_a_schedule_that_could_not_do_what_it_says_is_refused(
    more: dict[str, Any], at: str
) -> None:
    with pytest.raises(InvalidConfig) as refused:
        session(SGD, **more)
    assert [fault.pointer for fault in refused.value.faults] == [at]


def test_a_change_to_a_schedule_that_could_not_do_what_it_says_is_refused() -> None:
    state = session(SGD)
    with pytest.raises(InvalidConfig, match='it needs "schedule_on": "epoch"'):
        altered(state, ConfigPatch.model_validate({"scheduler": PLATEAU}))


def test_a_decay_that_leaves_what_can_be_used_is_refused_before_it_is_reached() -> None:
    falls = {"type": "ExpressionLR", "expression": "base_lr * (2 - t)"}
    state = session({**SGD, "weight_decay": 0.1}, weight_decay_scheduler=falls)
    stepped(state, 1)
    stepped(state, 2)
    before = frozen(state)
    with pytest.raises(InvalidConfig, match="is below 0") as refused:
        stepped(state, 3)
    assert [fault.pointer for fault in refused.value.faults] == ["/weight_decay_scheduler"]
    assert frozen(state) == before
