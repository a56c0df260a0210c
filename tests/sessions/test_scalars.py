"""Numbers that an optimizer keeps of each tensor: recorded, carried along, and checked."""

from __future__ import annotations

from typing import Any

import pytest
from session_states import config, packed, packed_all, started, take

from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import StepRecord
from gradstep_server.sessions.transfer import exported, imported

NADAM = {"type": "NAdam", "lr": 0.1, "betas": [0.5, 0.9], "momentum_decay": 0.0}
"""Its momentum is ¼ in every step."""

CYCLIC = {"type": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2}
W = packed([1.0, 2.0])
BOTH = packed_all({"w": [1.0, 2.0], "b": 0.5})


def test_a_record_holds_the_scalars_before_and_after_a_step() -> None:
    state = started(config(NADAM), BOTH)
    (first,) = take(state, BOTH).coefficients
    (second,) = take(state, BOTH).coefficients
    assert (first.scalars, first.after) == ({}, {"mu_product": 0.25})
    assert (second.scalars, second.after) == ({"mu_product": 0.25}, {"mu_product": 0.0625})
    assert state.scalars == {"w": {"mu_product": 0.0625}, "b": {"mu_product": 0.0625}}


def test_tensors_whose_scalars_differ_take_coefficients_of_their_own() -> None:
    state = started(config(NADAM, scheduler=CYCLIC), BOTH)
    take(state, {"w": BOTH["w"]})
    take(state, {"b": BOTH["b"]})
    record = take(state, BOTH)
    assert [c.steps for c in record.coefficients] == [1, 1]
    assert len({c.scalars["mu_product"] for c in record.coefficients}) == 2
    assert len({tuple(c.values) for c in record.coefficients}) == 2


def test_a_record_from_before_there_were_scalars_is_read() -> None:
    state = started(config({"type": "Adam", "lr": 0.1}), BOTH)
    record = take(state, BOTH)
    facts = record.model_dump()
    for coefficients in facts["coefficients"]:
        del coefficients["scalars"], coefficients["after"]
    assert StepRecord.model_validate(facts) == record


def test_a_state_file_names_scalars_only_where_there_are_some() -> None:
    adam = started(config({"type": "Adam"}), BOTH)
    take(adam, BOTH)
    assert "scalars" not in exported(adam)[1]
    nadam = started(config(NADAM), BOTH)
    assert "scalars" not in exported(nadam)[1]
    take(nadam, {"w": W})
    assert exported(nadam)[1]["scalars"] == '{"w":{"mu_product":0.25}}'


SLOTS = {"params/w": W, "exp_avg/w": W, "exp_avg_sq/w": W}


@pytest.mark.parametrize(
    ("scalars", "pointer"),
    [
        ({}, "/scalars/w"),
        ({"w": {}}, "/scalars/w"),
        ({"w": {"mu_product": 1.5}}, "/scalars/w/mu_product"),
        ({"w": {"mu_product": 0.5, "eta": 0.1}}, "/scalars/w/eta"),
        ({"w": {"mu_product": 0.5}, "v": {"mu_product": 0.5}}, "/scalars/v"),
    ],
)
def test_scalars_that_do_not_fit_are_refused(scalars: Any, pointer: str) -> None:
    state = State.new(config(NADAM), 0.0)
    state.check(SLOTS, {"w": 3}, {"w": {"mu_product": 0.5}})
    with pytest.raises(InvalidTensors) as refusal:
        state.check(SLOTS, {"w": 3}, scalars)
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]


def test_scalars_of_an_optimizer_that_keeps_none_are_refused() -> None:
    with pytest.raises(InvalidTensors, match="Adam keeps no such number; it keeps none"):
        State.new(config({"type": "Adam"}), 0.0).check(SLOTS, {"w": 3}, {"w": {"mu": 1.0}})


@pytest.mark.parametrize("wrong", ["-0.5", "NaN", '"1"', "true", "null"])
def test_a_scalar_that_is_no_number_of_its_kind_is_refused(wrong: str) -> None:
    state = started(config(NADAM), BOTH)
    take(state, BOTH)
    tensors, metadata = exported(state)
    metadata["scalars"] = metadata["scalars"].replace("0.25", wrong)
    with pytest.raises(InvalidTensors) as refusal:
        imported(tensors, metadata)
    assert refusal.value.faults[0].pointer.startswith("/__metadata__/scalars")
