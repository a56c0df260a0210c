"""What one step will do, what it refuses, and that planning it changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_states import COMPUTE, config, frozen, packed, packed_all, started, take, values

from gradstep_server.errors import GradstepError, InvalidRequest
from gradstep_server.optimizers import Compute
from gradstep_server.sessions import stepping
from gradstep_server.sessions.errors import InvalidTensors, NonFiniteGradient, ParamsMissing
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked, Coefficients, StepRecord
from gradstep_server.sessions.tensors import DType, Tensor

SGD = {"type": "SGD", "lr": 0.1}
ADAM = {"type": "Adam", "lr": 0.1}
PARAMS: dict[str, Any] = {"w": [[1.0, 2.0], [3.0, 4.0]], "a/b": [0.5], "scalar": 1.0}


def session(optimizer: dict[str, Any] = ADAM, dtype: DType = DType.F64, **more: Any) -> State:
    return started(config(optimizer, dtype, **more), packed_all(PARAMS, dtype))


def refused(state: State, gradients: dict[str, Tensor], asked: Asked | None = None) -> Any:
    """Return the error of a step, after proving that it changed nothing."""
    before = frozen(state)
    with pytest.raises(GradstepError) as refusal:
        take(state, gradients, asked)
    assert frozen(state) == before
    return refusal.value


def pointers(error: InvalidRequest) -> list[str]:
    return [fault.pointer for fault in error.faults]


def test_a_plan_changes_nothing() -> None:
    state = session(clip={"type": "norm", "max_norm": 0.1})
    before = frozen(state)
    gradients = packed_all({"w": np.ones((2, 2))})
    sent = bytes(gradients["w"].data)
    record = stepping.plan(state, gradients, Asked(), COMPUTE)
    assert frozen(state) == before
    stepping.apply(state, record, gradients, COMPUTE, seq=state.seq + 1)
    assert bytes(gradients["w"].data) == sent
    assert frozen(state) != before


def test_a_step_before_the_parameters_is_refused() -> None:
    assert isinstance(refused(State.new(config(SGD), 0.0), {"w": packed([1.0])}), ParamsMissing)


def test_a_step_without_a_tensor_is_refused() -> None:
    assert pointers(refused(session(), {})) == ["/grads"]


def test_every_tensor_that_does_not_fit_is_named() -> None:
    state = session(dtype=DType.F32)
    gradients = {
        "w": packed([1.0, 2.0, 3.0, 4.0], DType.F32),
        "a/b": packed([1.0], DType.F64),
        "no~": packed([1.0], DType.F32),
        "scalar": packed(1.0, DType.F32),
    }
    error = refused(state, gradients)
    assert isinstance(error, InvalidTensors)
    assert pointers(error) == ["/grads/w", "/grads/a~1b", "/grads/no~0"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("clip", [None, {"type": "value", "value": 1.0}])
@pytest.mark.parametrize("dtype", DType)
def test_a_non_finite_element_is_named_by_its_indices(
    value: float, optimizer: dict[str, Any], clip: Any, dtype: DType
) -> None:
    state = session(optimizer, dtype, clip=clip)
    bad = packed([[1.0, 1.0], [value, value]], dtype)
    error = refused(state, {"a/b": packed([1.0], dtype), "w": bad})
    assert isinstance(error, NonFiniteGradient)
    assert pointers(error) == ["/grads/w/1/0"]
    assert "[1, 0]" in error.detail


def test_a_non_finite_scalar_is_named_without_indices() -> None:
    assert pointers(refused(session(), {"scalar": packed(math.nan)})) == ["/grads/scalar"]


def test_gradients_whose_norm_overflows_are_refused_too() -> None:
    error = refused(session(SGD), {"w": packed(np.full((2, 2), 1.7e308))})
    assert isinstance(error, NonFiniteGradient)
    assert pointers(error) == ["/grads"]


def test_a_tiny_clipping_norm_does_not_divide_by_zero() -> None:
    state = session(ADAM, clip={"type": "norm", "max_norm": 5e-324})
    record = take(state, {"scalar": packed(1e160)})
    assert (record.applied, record.scale) == (True, 0.0)
    assert values(state, "scalar") == 1.0


def test_a_session_that_skips_takes_the_position_and_nothing_else() -> None:
    schedule = {"type": "StepLR", "step_size": 1, "gamma": 0.5}
    state = session(on_nonfinite="skip", scheduler=schedule, clip={"type": "norm", "max_norm": 1})
    take(state, packed_all(PARAMS))
    _, before = frozen(state)
    counters = [tensor.steps for tensor in state.tensors.values()]
    record = take(state, {"w": packed([[math.nan, 1.0], [1.0, 1.0]])})
    assert (record.applied, record.grad_norm, record.clipped) == (False, None, False)
    assert (record.lr, record.next_lr) == ([0.05], [0.025])
    assert frozen(state)[1] == before
    assert [tensor.steps for tensor in state.tensors.values()] == counters
    assert state.step == 2


def test_the_norm_spans_all_groups_and_comes_before_maximize_and_decay() -> None:
    optimizer = {"type": "SGD", "lr": 1.0, "maximize": True, "weight_decay": 0.5}
    groups = [{"match": ["scalar"], "lr": 0.5}]
    state = session(optimizer, clip={"type": "norm", "max_norm": 1}, param_groups=groups)
    record = take(state, packed_all({"a/b": [3.0], "scalar": 4.0}))
    scale = 1 / (5 + 1e-6)
    assert (record.grad_norm, record.scale, record.clipped) == (5.0, scale, True)
    assert values(state, "a/b") == pytest.approx(0.5 - (-3 * scale + 0.25), abs=1e-15)
    assert values(state, "scalar") == pytest.approx(1 - 0.5 * (-4 * scale + 0.5), abs=1e-15)


def test_clipping_by_value_holds_every_element() -> None:
    state = session({"type": "SGD", "lr": 1.0}, clip={"type": "value", "value": 0.5})
    record = take(state, {"w": packed([[3.0, -3.0], [0.25, 0.5]])})
    assert (record.clipped, record.bound, record.scale) == (True, 0.5, 1.0)
    assert values(state, "w").tolist() == [[0.5, 2.5], [2.75, 3.5]]


@pytest.mark.parametrize(
    ("lr", "expected"), [(0.5, [0.5, 0.5]), (0, [0.0, 0.0]), ([0.5, 0.25], [0.5, 0.25])]
)
def test_a_rate_that_comes_with_a_step_is_used_for_it_alone(lr: Any, expected: Any) -> None:
    groups = [{"match": ["scalar"], "lr": 1.0}]
    state = session(SGD, param_groups=groups)
    record = take(state, packed_all({"a/b": [1.0], "scalar": 1.0}), Asked(lr=lr))
    assert (record.lr, record.next_lr) == (expected, [0.1, 1.0])
    assert values(state, "a/b") == 0.5 - expected[0]
    assert values(state, "scalar") == 1.0 - expected[1]


@pytest.mark.parametrize("lr", [[], [0.1], [0.1, 0.1, 0.1]])
def test_rates_are_one_for_each_group(lr: list[float]) -> None:
    state = session(SGD, param_groups=[{"match": ["scalar"], "lr": 1.0}])
    error = refused(state, packed_all({"scalar": 1.0}), Asked(lr=lr))
    assert pointers(error) == ["/lr"]


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_a_rate_beyond_the_range_of_the_dtype_is_refused(optimizer: dict[str, Any]) -> None:
    state = session(optimizer, DType.F32)
    assert pointers(refused(state, {"scalar": packed(1.0, DType.F32)}, Asked(lr=1e39))) == ["/lr"]


def test_a_schedule_moves_with_steps_or_with_epochs() -> None:
    schedule = {"type": "StepLR", "step_size": 1, "gamma": 0.5}
    by_step = session(SGD, scheduler=schedule)
    by_epoch = session(SGD, scheduler=schedule, schedule_on="epoch")
    gradients = packed_all({"scalar": 1.0})
    records = [(take(by_step, gradients), take(by_epoch, gradients)) for _ in range(3)]
    assert [record.lr for record, _ in records] == [[0.1], [0.05], [0.025]]
    assert [record.next_lr for record, _ in records] == [[0.05], [0.025], [0.0125]]
    assert {(*record.lr, *record.next_lr) for _, record in records} == {(0.1, 0.1)}


def test_coefficients_are_recorded_once_for_tensors_that_share_them() -> None:
    groups = [{"match": ["scalar"], "lr": 1.0}]
    state = session(ADAM, param_groups=groups)
    first = take(state, packed_all(PARAMS))
    assert [(c.group, c.steps, c.fresh) for c in first.coefficients] == [
        (0, 0, True),
        (1, 0, True),
    ]
    take(state, packed_all({"w": np.ones((2, 2))}))
    third = take(state, packed_all(PARAMS))
    assert {(c.group, c.steps) for c in third.coefficients} == {(0, 2), (0, 1), (1, 1)}


@pytest.mark.parametrize("clip", [None, {"type": "norm", "max_norm": 1.0}])
def test_a_large_step_has_the_same_bits_on_two_threads(clip: Any) -> None:
    rng = np.random.default_rng(2)
    params = {"w": packed(rng.standard_normal(300_001), DType.F32)}
    gradients = {"w": packed(rng.standard_normal(300_001), DType.BF16)}
    threads = Compute(2)
    results = []
    for compute in (COMPUTE, threads):
        state = started(config(ADAM, DType.F32, clip=clip), params)
        records = [take(state, gradients, compute=compute) for _ in range(2)]
        results.append((records, frozen(state)))
    threads.close()
    assert results[0] == results[1]


def test_narrower_gradients_are_widened_exactly() -> None:
    wide, narrow = session(SGD), session(SGD)
    take(narrow, {"a/b": packed([0.1], DType.BF16)})
    take(wide, {"a/b": packed([0.10009765625], DType.F64)})
    assert values(narrow, "a/b") == values(wide, "a/b")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(numbers=st.lists(NUMBERS, min_size=6, max_size=6), loss=st.none() | NUMBERS)
def test_a_record_keeps_every_bit_of_its_numbers(numbers: list[float], loss: float | None) -> None:
    record = StepRecord(
        asked=Asked(loss=loss, lr=[abs(number) for number in numbers]),
        tensors=[("w", "F32", [2, 3])],
        lr=numbers[:1],
        next_lr=numbers[1:2],
        applied=True,
        grad_norm=numbers[2],
        clipped=False,
        scale=numbers[3],
        bound=numbers[4],
        coefficients=[Coefficients(group=0, steps=2**53, fresh=True, values=numbers)],
    )
    again = StepRecord.model_validate_json(record.model_dump_json())
    assert repr(again) == repr(record)
