"""How gradients are laid beside what they step: few runs, few copies, always the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_states import (
    COMPUTE,
    captured,
    config,
    frozen,
    packed,
    packed_all,
    restored,
    started,
    step_entry,
    take,
)

from gradstep_server.optimizers import BLOCK
from gradstep_server.sessions import stepping
from gradstep_server.sessions.gradients import Gradients, Run, runs_of
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType, Tensor, Tensors
from gradstep_server.sessions.transitions import advance

ADAMW = {"type": "AdamW", "lr": 0.1}
LARGE = 20_000
"""Elements of a tensor that is not worth copying."""


def session(shapes: Mapping[str, tuple[int, ...]], dtype: DType = DType.F32, **more: Any) -> State:
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return started(config(ADAMW, dtype, **more), packed_all(params, dtype))


def laid(state: State, gradients: Tensors, seq: int) -> list[Run]:
    return runs_of(state, gradients, state.groups.optimizers, seq)


def one_buffer(tensors: Tensors, order: list[str], offset: int = 0) -> dict[str, Tensor]:
    """Return the tensors one behind the other, as a body that was received holds them."""
    size = sum(tensor.data.nbytes for tensor in tensors.values())
    body = memoryview(bytearray(offset + size))
    placed = {}
    for name in order:
        tensor = tensors[name]
        data = body[offset : offset + tensor.data.nbytes]
        data[:] = tensor.data
        placed[name] = Tensor(tensor.dtype, tensor.shape, data)
        offset += tensor.data.nbytes
    return placed


def read_only(tensors: Tensors) -> dict[str, Tensor]:
    return {
        name: Tensor(tensor.dtype, tensor.shape, memoryview(bytes(tensor.data)))
        for name, tensor in tensors.items()
    }


LAYOUTS: Mapping[str, Callable[[Tensors, random.Random], Tensors]] = {
    "by name": lambda tensors, _: one_buffer(tensors, sorted(tensors)),
    "backwards": lambda tensors, _: one_buffer(tensors, sorted(tensors, reverse=True)),
    "shuffled": lambda tensors, rng: one_buffer(tensors, rng.sample(sorted(tensors), len(tensors))),
    "unaligned": lambda tensors, _: one_buffer(tensors, sorted(tensors), offset=3),
    "read-only": lambda tensors, _: read_only(tensors),
}


def in_memory_of(values: Any, tensors: Tensors) -> bool:
    return any(np.shares_memory(values, tensor.stored()) for tensor in tensors.values())


def test_a_hundred_tensors_of_one_body_are_one_run_without_a_copy() -> None:
    shapes = {f"layer{i:02}": (300, 7) for i in range(100)}
    state = session(shapes)
    body = one_buffer(packed_all({n: np.ones(s) for n, s in shapes.items()}, DType.F32), [*shapes])
    [run] = laid(state, body, 2)
    assert (run.size, len(run.tensors)) == (210_000, 100)
    assert in_memory_of(run.values, {"": body["layer99"]})
    take(state, body)
    [run] = laid(state, body, 3)
    assert run.key == (0, 1, False, ())


def test_small_tensors_of_many_buffers_are_copied_to_one_run() -> None:
    shapes = {f"layer{i}": (7, 3) for i in range(9)}
    gradients = packed_all({n: np.full(s, i) for i, (n, s) in enumerate(shapes.items())}, DType.F32)
    [run] = laid(session(shapes), gradients, 2)
    assert run.values.tolist() == [i for i in range(9) for _ in range(21)]


def test_large_tensors_of_many_buffers_stay_where_they_are() -> None:
    shapes = dict.fromkeys("abc", (LARGE,))
    gradients = packed_all({name: np.ones(LARGE) for name in shapes}, DType.F32)
    runs = laid(session(shapes), gradients, 2)
    assert [in_memory_of(run.values, gradients) for run in runs] == [True] * 3


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_narrow_gradients_are_widened_into_one_array(dtype: DType) -> None:
    shapes = dict.fromkeys("abc", (LARGE,))
    [run] = laid(session(shapes), packed_all({n: np.ones(LARGE) for n in shapes}, dtype), 2)
    assert (run.values == 1).all()
    assert run.values.size == 3 * LARGE


def test_tensors_of_a_group_are_adjacent_though_their_names_are_not() -> None:
    shapes = {f"layer{i}.{kind}": (5,) for i in range(8) for kind in ("bias", "weight")}
    state = session(shapes, param_groups=[{"match": ["*.bias"], "weight_decay": 0}])
    gradients = packed_all({name: np.ones(5) for name in shapes}, DType.F32)
    runs = laid(state, one_buffer(gradients, sorted(gradients)), 2)
    assert [(run.key[0], len(run.tensors)) for run in runs] == [(0, 8), (1, 8)]


def test_an_absent_tensor_is_left_out_and_counts_by_itself_later() -> None:
    shapes = dict.fromkeys("abc", (4,))
    state = session(shapes)
    take(state, packed_all({"a": np.ones(4), "c": np.ones(4)}, DType.F32))
    runs = laid(state, packed_all({name: np.ones(4) for name in shapes}, DType.F32), 3)
    assert [(run.key, len(run.tensors)) for run in runs] == [
        ((0, 1, False, ()), 1),
        ((0, 0, True, ()), 1),
        ((0, 1, False, ()), 1),
    ]


def test_empty_tensors_step_too() -> None:
    state = session({"a": (3,), "b": (0, 2), "c": (2,), "d": (0,)})
    gradients = packed_all(
        {"a": np.ones(3), "b": np.ones((0, 2)), "c": np.ones(2), "d": []}, DType.F32
    )
    take(state, gradients)
    take(state, {"b": gradients["b"]})
    assert [state.tensors[name].steps for name in "abcd"] == [1, 2, 1, 1]
    assert set(state.tensors["d"].slots) == {"exp_avg", "exp_avg_sq"}


def test_blocks_end_with_their_tensor() -> None:
    sizes = {"a": 3, "b": 2 * BLOCK + 1, "c": 0, "d": 5}
    state = session({name: (size,) for name, size in sizes.items()})
    gradients = packed_all({name: np.ones(size) for name, size in sizes.items()}, DType.F32)
    [run] = laid(state, one_buffer(gradients, sorted(sizes)), 2)
    end = 2 * BLOCK + 4
    assert run.cuts() == [0, 3, 3 + BLOCK, 3 + 2 * BLOCK, end, end, end + 5]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 3, 17, LARGE, BLOCK + 1]), min_size=1, max_size=7),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([DType.F64, DType.F32, DType.BF16]),
    narrow=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_step_has_the_same_bits_wherever_its_gradients_lie(
    sizes: list[int], layout: str, dtype: DType, narrow: bool, seed: int
) -> None:
    shapes = {f"t{i}{'b' * (i % 2)}": (size,) for i, size in enumerate(sizes)}
    groups = [{"match": ["t0", *["*b"] * (len(sizes) > 1)], "lr": 0.5}]
    clip = {"type": "norm", "max_norm": 1.0}
    states = [session(shapes, dtype, param_groups=groups, clip=clip) for _ in range(2)]
    rng, draw = np.random.default_rng(seed), random.Random(seed)
    for _ in range(3):
        present = draw.sample(sorted(shapes), draw.randint(1, len(shapes)))
        sent = {
            name: packed(rng.standard_normal(shapes[name]), DType.F16 if narrow else dtype)
            for name in present
        }
        records = [take(states[0], sent), take(states[1], LAYOUTS[layout](sent, draw))]
        assert records[0] == records[1]
    assert frozen(states[0]) == frozen(states[1])


def test_tensors_that_a_snapshot_includes_further_than_others_step_by_themselves() -> None:
    shapes = {"a": (3,), "b": (4,), "c": (5,)}
    state = session(shapes)
    gradients = one_buffer(
        packed_all({n: np.ones(s) for n, s in shapes.items()}, DType.F32), [*shapes]
    )
    take(state, gradients)
    again = restored(*captured(state))
    again.tensors["a"].ahead = [(3, 3)]
    again.tensors["b"].ahead = [(2, 2), (4, 3)]
    runs = laid(again, gradients, 3)
    assert [(run.span, run.values.size) for run in runs] == [
        (slice(3, 5), 4),
        (slice(7, 12), 5),
    ]


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16, DType.F32])
def test_a_live_step_widens_its_gradients_once(
    dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened: list[DType] = []
    original = Tensor.widen_into

    def counting(tensor: Tensor, values: Any) -> None:
        widened.append(tensor.dtype)
        original(tensor, values)

    shapes = {"a": (3,), "b": (4,)}
    state = session(shapes)
    gradients = Gradients(packed_all({n: np.ones(s) for n, s in shapes.items()}, dtype))
    monkeypatch.setattr(Tensor, "widen_into", counting)
    advance(state, step_entry(state, gradients), gradients, COMPUTE)
    assert widened == [dtype] * 2


def test_what_a_plan_has_kept_serves_the_step_that_it_planned_and_no_other() -> None:
    shapes = {"a": (3,)}
    planned, other = session(shapes), session(shapes)
    gradients = Gradients(packed_all({"a": np.ones(3)}, DType.F32))
    stepping.plan(planned, gradients, Asked(), COMPUTE)
    assert gradients.taken(other, 2) is None
    stepping.plan(planned, gradients, Asked(), COMPUTE)
    assert gradients.taken(planned, 3) is None
    stepping.plan(planned, gradients, Asked(), COMPUTE)
    kept = gradients.taken(planned, 2)
    assert kept is not None
    assert kept[0].tensors == [planned.tensors["a"]]
    assert gradients.taken(planned, 2) is None
