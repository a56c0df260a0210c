"""A state is dumped and filled without loss, and refuses what does not fit."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest
from session_states import (
    by_adamw,
    captured,
    config,
    frozen,
    packed,
    packed_all,
    restored,
    started,
    take,
)

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.errors import InvalidConfig, InvalidTensors
from gradstep_server.sessions.state import State
from gradstep_server.sessions.tensors import DType, Tensor
from gradstep_server.sessions.transfer import StateFile, exported, imported

ADAM = {"type": "Adam", "lr": 0.1}
SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
PARAMS: dict[str, Any] = {"w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5], "never": 1.0, "empty": []}
SHAPES = {"w": (2, 2), "b": (1,), "never": (), "empty": (0,)}
SETTINGS = [
    config(ADAM),
    config(ADAM | {"amsgrad": True}, DType.BF16),
    config(SGD, DType.F32, scheduler={"type": "StepLR", "step_size": 2}),
    config({"type": "SGD"}, param_groups=[{"match": ["b"], "momentum": 0.5}]),
    *(
        config({"type": name, **example}, dtype, param_groups=by_adamw({"type": name}, SHAPES))
        for name, kind in OPTIMIZERS.items()
        for example, dtype in zip(kind.examples, cycle(DType), strict=False)
    ),
]


def stepped(settings: SessionConfig) -> State:
    """Return a session after some steps, of which one tensor has seen none."""
    state = started(settings, packed_all(PARAMS, settings.dtype))
    for n in range(1, 4):
        gradients: dict[str, Any] = {"w": np.full((2, 2), 0.1 * n), "b": [n], "empty": []}
        take(state, packed_all(gradients, DType.F16))
    return state


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.optimizer!r} {s.dtype}")
def test_a_snapshot_holds_everything(settings: SessionConfig) -> None:
    state = stepped(settings)
    snapshot, parts = captured(state)
    again = restored(snapshot, parts)
    assert frozen(again) == frozen(state)
    more = {"w": packed(np.full((2, 2), 0.3), DType.F16)}
    assert take(again, more) == take(state, more)
    assert frozen(again) == frozen(state)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.optimizer!r} {s.dtype}")
def test_an_exported_state_continues_in_another_session(settings: SessionConfig) -> None:
    state = stepped(settings)
    tensors, metadata = exported(state)
    file = imported(tensors, metadata)
    other = State.new(settings, 0.0)
    other.check(file.tensors, file.counters, file.scalars)
    other.fill(file.tensors, file.counters, file.scalars)
    other.step, other.epoch, other.origin = file.step, file.epoch, file.origin
    other.updates = file.step
    more = {"w": packed(np.full((2, 2), 0.3), DType.F16)}
    assert take(other, more).lr == take(state, more).lr
    assert other.scalars == state.scalars
    assert frozen(other)[1] == frozen(state)[1]


def test_an_export_is_a_copy() -> None:
    state = stepped(config(SGD))
    tensors, _ = exported(state)
    before = bytes(tensors["params/w"].data)
    take(state, {"w": packed(np.ones((2, 2)))})
    assert bytes(tensors["params/w"].data) == before


def test_parameters_are_a_copy_in_the_dtype_of_the_session() -> None:
    for dtype in DType:
        state = stepped(config(ADAM, dtype))
        params = state.params()
        before = bytes(params["w"].data)
        take(state, {"w": packed(np.ones((2, 2)), DType.F16)})
        assert bytes(params["w"].data) == before
        assert {tensor.dtype for tensor in params.values()} == {dtype}


W = packed([1.0, 2.0])
REFUSED: dict[str, tuple[dict[str, Tensor], dict[str, int], str]] = {
    "an empty name": ({"params/": W}, {}, "/params/"),
    "no slot": ({"w": W}, {}, "/params/"),
    "a long name": ({"params/" + "x" * 513: W}, {}, "/params/" + "x" * 513),
    "a reserved name": ({"params/__metadata__": W}, {}, "/params/__metadata__"),
    "a slot of no parameter": ({"exp_avg/w": W}, {}, "/exp_avg/w"),
    "an unknown slot": ({"params/w": W, "momentum_buffer/w": W}, {}, "/momentum_buffer/w"),
    "a slot of AMSGrad": (
        {"params/w": W, "exp_avg/w": W, "exp_avg_sq/w": W, "max_exp_avg_sq/w": W},
        {},
        "/max_exp_avg_sq/w",
    ),
    "half of the slots": ({"params/w": W, "exp_avg/w": W}, {"w": 1}, "/exp_avg_sq/w"),
    "steps without slots": ({"params/w": W}, {"w": 3}, "/exp_avg/w"),
    "a slot of another shape": (
        {"params/w": W, "exp_avg/w": packed([[1.0, 2.0]]), "exp_avg_sq/w": W},
        {"w": 1},
        "/exp_avg/w",
    ),
    "a parameter that is NaN": ({"params/w": packed([1.0, np.nan])}, {}, "/params/w"),
    "a slot that is infinite": (
        {"params/w": W, "exp_avg/w": W, "exp_avg_sq/w": packed([np.inf, 0.0])},
        {"w": 1},
        "/exp_avg_sq/w",
    ),
    "a counter of no tensor": ({"params/w": W}, {"v": 1}, "/counters/v"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_state_that_does_not_fit_is_refused(case: str) -> None:
    tensors, counters, pointer = REFUSED[case]
    with pytest.raises(InvalidTensors) as refusal:
        State.new(config(ADAM), 0.0).check(tensors, counters)
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


def test_a_dtype_wider_than_the_masters_is_refused() -> None:
    state = State.new(config(ADAM, DType.BF16), 0.0)
    state.check({"params/w": packed([1.0], DType.F32)}, {})
    with pytest.raises(InvalidTensors, match="F64 is wider than F32"):
        state.check({"params/w": W}, {})


def test_momentum_may_be_missing_because_it_may_come_late() -> None:
    state = State.new(config(SGD), 0.0)
    state.check({"params/w": W}, {"w": 3})
    state.fill({"params/w": W}, {"w": 3})
    take(state, {"w": packed([1.0, 1.0])})
    assert state.tensors["w"].slots["momentum_buffer"].tolist() == [1.0, 1.0]
    assert state.tensors["w"].steps == 4


def test_a_pattern_that_matches_no_parameter_is_refused() -> None:
    state = State.new(config(ADAM, param_groups=[{"match": ["v"], "lr": 1}]), 0.0)
    with pytest.raises(InvalidConfig, match="'v' matches no tensor"):
        state.check({"params/w": W}, {})


GOOD = {
    "format": "gradstep-state",
    "version": "1",
    "step": "3",
    "epoch": "0",
    "origin": "0",
    "counters": '{"w": 3}',
}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"format": "other"}, "/__metadata__"),
        ({"version": "2"}, "/__metadata__"),
        ({"step": "-1"}, "/__metadata__/step"),
        ({"step": "1.5"}, "/__metadata__/step"),
        ({"step": "true"}, "/__metadata__/step"),
        ({"step": str(2**53)}, "/__metadata__/step"),
        ({"epoch": "x"}, "/__metadata__/epoch"),
        ({"counters": "[]"}, "/__metadata__/counters"),
        ({"counters": '{"a/b": -1}'}, "/__metadata__/counters/a~1b"),
        ({"origin": "4"}, "/__metadata__/origin"),
    ],
)
def test_metadata_of_no_exported_state_is_refused(changes: dict[str, Any], pointer: str) -> None:
    assert imported({"params/w": W}, GOOD) == StateFile({"params/w": W}, step=3, counters={"w": 3})
    with pytest.raises(InvalidTensors) as refusal:
        imported({"params/w": W}, GOOD | changes)
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


@pytest.mark.parametrize(
    ("name", "content", "pointer"),
    [
        ("counters", '{"a": -1, "b": -1}', "/counters/a"),
        ("scalars", '{"a": 1, "b": 1}', "/scalars/a"),
        ("scalars", '{"a": {"eta": -1, "mu": -1}}', "/scalars/a/eta"),
        ("followed", '{"falls": [1, "x", "y"]}', "/followed/falls/1"),
    ],
)
def test_of_much_that_is_wrong_in_metadata_the_first_is_named(
    name: str, content: str, pointer: str
) -> None:
    with pytest.raises(InvalidTensors) as refusal:
        imported({"params/w": W}, GOOD | {name: content})
    assert [fault.pointer for fault in refusal.value.faults] == [f"/__metadata__{pointer}"]


@pytest.mark.parametrize(
    ("counters", "scalars", "pointer"),
    [
        ({"v": 1}, {}, "/counters/v"),
        ({}, {"v": {}}, "/scalars/v"),
        ({}, {"w": {"eta": 1.0}}, "/scalars/w/eta"),
    ],
)
def test_what_fits_no_tensor_is_found_before_elements_are_read(
    counters: dict[str, int], scalars: dict[str, dict[str, float]], pointer: str
) -> None:
    state = State.new(config(ADAM), 0.0)
    with pytest.raises(InvalidTensors) as refusal:
        state.check({"params/w": packed([1.0, np.nan])}, counters, scalars)
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


def test_the_footprint_is_what_a_stepped_session_takes() -> None:
    settings = config(ADAM, DType.BF16, param_groups=[{"match": ["b"], "amsgrad": True}])
    state = started(settings, packed_all({"w": np.ones((2, 2)), "b": [1.0]}, DType.BF16))
    before = state.nbytes
    take(state, packed_all({"w": np.ones((2, 2)), "b": [1.0]}, DType.BF16))
    held = sum(
        array.nbytes for t in state.tensors.values() for array in (t.values, *t.slots.values())
    )
    assert before == state.nbytes == held == 4 * (3 * 4 + 4 * 1)
    assert state.footprint({"w": (2, 2), "b": (1,)}) == held


def test_a_buffer_that_momentum_left_behind_travels_too() -> None:
    state = stepped(config({"type": "SGD", "lr": 0.1, "momentum": 0.9}))
    without = config({"type": "SGD", "lr": 0.1})
    tensors, metadata = exported(state)
    other = State.new(without, 0.0)
    file = imported(tensors, metadata)
    other.check(file.tensors, file.counters)
    other.fill(file.tensors, file.counters)
    assert other.stepped
    assert other.tensors["w"].slots.keys() == {"momentum_buffer"}
