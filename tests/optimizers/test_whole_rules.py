"""Rules over whole tensors: what they see of a shape, and what they do with norms of 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from session_states import config, packed, packed_all, started, take, values

from gradstep_server.optimizers import Compute, Pass, Shape, compute, matrices
from gradstep_server.optimizers.whole import like, norm
from gradstep_server.sessions.state import State


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
