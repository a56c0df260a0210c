"""Rules over whole tensors: what they see of a shape, and what they do with norms of 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from session_states import config, packed, packed_all, started, take, values
from torch_optimizers import build

from gradstep_server.optimizers import OPTIMIZERS, Compute, Pass, Shape, compute, matrices
from gradstep_server.optimizers.whole import LANES, like, norm, sum_of_squares
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.state import State
from gradstep_server.sessions.tensors import DType


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1, 1)),
        ((5,), (1, 1, 5)),
        ((2, 3), (1, 2, 3)),
        ((4, 1, 2, 3), (4, 2, 3)),
        ((0, 3), (1, 0, 3)),
        ((0, 2, 3), (0, 2, 3)),
    ],
)
def test_a_tensor_is_a_stack_of_the_matrices_of_its_last_two_axes(
    shape: Shape, expected: Shape
) -> None:
    flat = np.arange(math.prod(shape), dtype=np.float64)
    stack = matrices(flat, shape)
    assert stack.shape == expected
    assert stack.ravel().tolist() == flat.tolist()
    assert not flat.size or np.shares_memory(stack, flat)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], 0.0), ([0.0], 0.0), ([3.0, 4.0], 5.0), ([3e200, -4e200], 5e200), ([5e-324], 0.0)],
)
def test_a_norm_does_not_overflow_before_it_must(numbers: list[float], expected: float) -> None:
    assert norm(np.array(numbers)) == pytest.approx(expected, rel=1e-15)


def test_a_norm_of_float32_is_that_of_float64() -> None:
    x = np.random.default_rng(0).standard_normal(100_001).astype(np.float32)
    assert norm(x) == pytest.approx(float(np.linalg.norm(x.astype(np.float64))), rel=1e-12)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 511, LANES, LANES + 1, 2 * LANES, 5_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_has_its_order_on_every_machine(size: int, dtype: type[Any]) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    lanes = [0.0] * min(LANES, size)
    for i, value in enumerate(x.tolist()):
        lanes[i % LANES] += value * value
    while len(lanes) > 1:
        half = (len(lanes) + 1) // 2
        lanes = [a + b for a, b in zip(lanes[:half], [*lanes[half:], 0.0], strict=False)]
    assert sum_of_squares(x, 1.0) == (lanes[0] if lanes else 0.0)


def test_a_number_is_rounded_to_the_dtype_of_an_array() -> None:
    assert like(np.zeros(1, np.float32), 0.1) == np.float32(0.1)
    assert like(np.zeros(1), 0.1) == 0.1


LAMB = {"type": "LAMB", "lr": 0.1, "betas": [0, 0], "eps": 0.0}
LARS = {"type": "LARS", "lr": 0.1, "momentum": 0.0, "trust_coefficient": 0.5}


@pytest.mark.parametrize(
    ("optimizer", "start", "gradient", "expected"),
    [
        (LAMB, [3.0, 4.0], [2.0, -2.0], [3 - 0.5 / math.sqrt(2), 4 + 0.5 / math.sqrt(2)]),
        (LAMB, [0.0, 0.0], [2.0, -2.0], [-0.1, 0.1]),
        (LAMB | {"eps": 1.0}, [3.0, 4.0], [0.0, 0.0], [3.0, 4.0]),
        (LAMB | {"eps": 1.0, "weight_decay": 0.5}, [3.0, 4.0], [0.0, 0.0], [2.7, 3.6]),
        (LARS, [3.0, 4.0], [0.6, 0.8], [3 - 0.15, 4 - 0.2]),
        (LARS, [0.0, 0.0], [0.6, 0.8], [-0.06, -0.08]),
        (LARS, [3.0, 4.0], [0.0, 0.0], [3.0, 4.0]),
        (LARS | {"weight_decay": 0.2}, [3.0, 4.0], [0.6, 0.8], [3 - 0.15, 4 - 0.2]),
        (LARS | {"weight_decay": 0.2}, [3.0, 4.0], [0.0, 0.0], [3 - 0.06, 4 - 0.08]),
    ],
)
def test_a_step_is_as_long_as_the_tensor_and_unscaled_where_a_norm_is_0(
    optimizer: dict[str, Any], start: list[float], gradient: list[float], expected: list[float]
) -> None:
    state = started(config(optimizer), {"w": packed(start)})
    take(state, {"w": packed(gradient)})
    assert values(state, "w") == pytest.approx(expected, abs=1e-14)


def test_lars_of_the_paper_keeps_the_rate_inside_the_buffer() -> None:
    classical = LARS | {"momentum": 0.5, "momentum_style": "classical"}
    state = started(config(classical), {"w": packed([3.0, 4.0])})
    take(state, {"w": packed([0.6, 0.8])})
    assert state.tensors["w"].slots["momentum_buffer"] == pytest.approx([0.15, 0.2])
    torch_like = started(config(classical | {"momentum_style": "torch"}), {"w": packed([3.0, 4.0])})
    take(torch_like, {"w": packed([0.6, 0.8])})
    assert torch_like.tensors["w"].slots["momentum_buffer"] == pytest.approx([1.5, 2.0])
    assert values(torch_like, "w") == pytest.approx(values(state, "w"), rel=1e-15)


def test_each_tensor_has_a_ratio_of_its_own_wherever_it_lies() -> None:
    both: State = started(config(LARS), packed_all({"a": [3.0, 4.0], "b": [30.0, 40.0]}))
    take(both, packed_all({"a": [0.6, 0.8], "b": [0.6, 0.8]}))
    assert values(both, "a") == pytest.approx([2.85, 3.8])
    assert values(both, "b") == pytest.approx([28.5, 38.0])


def test_a_whole_tensor_is_one_task_however_many_threads_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compute, "SERIAL_BELOW", 0)
    seen: list[Shape] = []

    def rule(x: Any) -> None:
        seen.append(x.shape)

    threads = Compute(2)
    threads.run([Pass(rule, [np.zeros((2, 300, 400))], [], whole=True) for _ in range(3)])
    threads.close()
    assert seen == [(2, 300, 400)] * 3


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 2), (1, 5), (5, 1), (6,), ()])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_adafactor_factors_the_last_two_axes_as_torch_does(shape: Shape, dtype: DType) -> None:
    params = {"type": "Adafactor", "lr": 0.1, "weight_decay": 0.1}
    rng = np.random.default_rng(0)
    state = started(config(params, dtype), {"w": packed(rng.standard_normal(shape), dtype)})
    weight = torch.tensor(values(state, "w"))
    reference = build(params, [weight])
    tolerance = 1e-12 if dtype is DType.F64 else 1e-6
    for _ in range(10):
        gradient = packed(rng.standard_normal(shape), dtype)
        weight.grad = torch.tensor(gradient.widened(dtype).reshape(shape))
        take(state, {"w": gradient})
        reference.step()
        expected = weight.numpy()
        assert abs(values(state, "w") - expected).max() <= tolerance * abs(expected).max()
        np.copyto(state.tensors["w"].values, expected.ravel())
        for slot, own in OPTIMIZERS["Adafactor"]().slots_of(shape).items():
            kept = reference.state[weight][slot].numpy()
            assert kept.shape == own
            np.copyto(state.tensors["w"].slots[slot], kept.ravel())


def test_adafactor_keeps_a_row_and_a_column_and_counts_their_memory() -> None:
    settings = config({"type": "Adafactor"})
    state = started(settings, packed_all({"w": np.ones((30, 40)), "b": np.ones(9)}))
    assert state.nbytes == 8 * (30 * 40 + 30 + 40 + 2 * 9)
    take(state, packed_all({"w": np.ones((30, 40)), "b": np.ones(9)}))
    tensors = state.dump()[1]
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "params/w": (30, 40),
        "row_var/w": (30, 1),
        "col_var/w": (1, 40),
        "params/b": (9,),
        "variance/b": (9,),
    }


@pytest.mark.parametrize(
    ("slots", "pointer", "says"),
    [
        ({"row_var/w": (3, 1), "col_var/w": (2, 1)}, "/col_var/w", "its shape is [1, 2]"),
        ({"row_var/w": (3, 2), "col_var/w": (1, 2)}, "/row_var/w", "its shape is [3, 1]"),
        ({"variance/w": (3, 2)}, "/variance/w", "no such slot; it has col_var, row_var"),
        ({"row_var/w": (3, 1)}, "/col_var/w", "is missing"),
    ],
)
def test_slots_of_another_shape_are_refused(
    slots: dict[str, Shape], pointer: str, says: str
) -> None:
    tensors = packed_all({name: np.ones(shape) for name, shape in slots.items()})
    with pytest.raises(InvalidTensors) as refusal:
        State.new(config({"type": "Adafactor"}), 0.0).check(
            {"params/w": packed(np.ones((3, 2))), **tensors}, {"w": 1}
        )
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]
    assert says in refusal.value.faults[0].detail
