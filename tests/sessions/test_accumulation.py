"""Gradients of several steps that make one update: torch's loop, and nothing lost in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from session_states import (
    COMPUTE,
    Array,
    captured,
    config,
    frozen,
    init_entry,
    packed,
    packed_all,
    restored,
    started,
    step_entry,
    take,
    values,
)
from torch_optimizers import GAMMA, SHAPES, build, clip_gradients, draw, draw_gradients

from gradstep_server.errors import GradstepError
from gradstep_server.optimizers import Compute
from gradstep_server.sessions.digests import body
from gradstep_server.sessions.errors import NonFiniteGradient
from gradstep_server.sessions.snapshots import Capture, pieces_of
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType
from gradstep_server.sessions.transfer import exported, imported
from gradstep_server.sessions.transitions import advance, replay

TOLERANCE = {DType.F64: 1e-12, DType.F32: 1e-6}
SGD = {"type": "SGD", "lr": 1.0}
ADAMW = {"type": "AdamW", "lr": 0.1}
HALVING = {"type": "ExponentialLR", "gamma": 0.5}


def accumulating(k: int, optimizer: Mapping[str, Any] = SGD, **more: Any) -> State:
    """Return a session of two tensors of zeros that makes an update of every k steps."""
    settings_ = config(optimizer, accumulate={"steps": k}, **more)
    return started(settings_, packed_all({"w": [0.0, 0.0], "b": 0.0}))


def sent(w: Any = None, b: Any = None) -> Any:
    return packed_all({name: v for name, v in (("w", w), ("b", b)) if v is not None})


def told(record: Any) -> tuple[bool, int | None]:
    return record.applied, record.accumulated


class TorchLoop:
    """torch's loop of accumulation: k times backward, then one step of all that has a gradient."""

    def __init__(
        self, params: Mapping[str, Any], initial: Mapping[str, Array], k: int, mode: str, clip: Any
    ) -> None:
        self.tensors = {n: torch.tensor(a).requires_grad_() for n, a in initial.items()}
        self.optimizer = build(params, list(self.tensors.values()))
        self.rate = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, GAMMA)
        self._share = k if mode == "mean" else 1
        self._clip = clip

    def backward(self, gradients: Mapping[str, Array | None]) -> None:
        for name, gradient in gradients.items():
            if gradient is not None:
                (self.tensors[name] * torch.tensor(gradient) / self._share).sum().backward()  # type: ignore[no-untyped-call] # of torch

    def step(self) -> None:
        present = [t for t in self.tensors.values() if t.grad is not None]
        with torch.no_grad():
            clip_gradients(present, self._clip)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad(set_to_none=True)

    def values(self, name: str) -> Array:
        array: Array = self.tensors[name].detach().numpy()
        return array


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("mode", ["mean", "sum"])
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    ("optimizer", "clip"),
    [
        ({"type": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}, None),
        (ADAMW, {"type": "norm", "max_norm": 1.0}),
        ({"type": "Adam", "lr": 0.01, "maximize": True}, {"type": "value", "value": 0.3}),
        (ADAMW, {"type": "adaptive", "clipping": 0.05}),
    ],
)
def test_an_update_is_that_of_a_loop_in_torch(
    optimizer: dict[str, Any], clip: Any, k: int, mode: str, dtype: DType
) -> None:
    rng = np.random.default_rng(k)
    initial = draw(rng, SHAPES, dtype)
    settings_ = config(
        optimizer,
        dtype,
        clip=clip,
        accumulate={"steps": k, "mode": mode},
        scheduler={"type": "ExponentialLR", "gamma": GAMMA},
    )
    ours = started(settings_, packed_all(initial, dtype))
    torchs = TorchLoop(optimizer, initial, k, mode, clip)
    for _ in range(8):
        before = {name: values(ours, name) for name in SHAPES}
        rate = torchs.optimizer.param_groups[0]["lr"]
        for j in range(1, k + 1):
            drawn = draw_gradients(rng, SHAPES, dtype)
            present = {name: packed(g, dtype) for name, g in drawn.items() if g is not None}
            record = take(ours, present)
            torchs.backward(drawn)
            assert told(record) == (j == k, j)
            assert record.lr == pytest.approx([rate], rel=1e-9)
            if j < k:
                assert all((values(ours, name) == before[name]).all() for name in SHAPES)
        torchs.step()
        for name in SHAPES:
            got, expected = values(ours, name), torchs.values(name)
            largest = max(abs(expected).max(), abs(before[name]).max())
            assert abs(got.astype(float) - expected).max() <= 2 * TOLERANCE[dtype] * largest
            for tensor, kept in ((ours.tensors[name], torchs.tensors[name]),):
                np.copyto(kept.detach().numpy(), tensor.values.reshape(tensor.shape))


def test_steps_that_only_add_change_no_parameter_and_no_counter_and_no_rate() -> None:
    state = accumulating(3, scheduler=HALVING)
    records = [take(state, sent([1.0, 2.0], 1.0)) for _ in range(7)]
    assert [told(r) for r in records] == [
        (False, 1),
        (False, 2),
        (True, 3),
        (False, 1),
        (False, 2),
        (True, 3),
        (False, 1),
    ]
    assert [r.lr for r in records] == [[1.0]] * 3 + [[0.5]] * 3 + [[0.25]]
    assert [r.next_lr for r in records] == [[1.0]] * 2 + [[0.5]] * 3 + [[0.25]] * 2
    assert (state.step, state.updates, state.accumulated) == (7, 2, 1)
    assert {tensor.steps for tensor in state.tensors.values()} == {2}
    assert values(state, "w").tolist() == [-1.5, -3.0]


@pytest.mark.parametrize(("mode", "factor"), [("mean", 0.5), ("sum", 1.0)])
def test_the_update_is_made_of_the_mean_or_of_the_sum(mode: str, factor: float) -> None:
    settings_ = config(SGD, accumulate={"steps": 2, "mode": mode})
    state = started(settings_, packed_all({"w": [0.0, 0.0], "b": 0.0}))
    first, second = take(state, sent([3.0, 0.0])), take(state, sent([0.0, 4.0]))
    assert values(state, "w").tolist() == [-3 * factor, -4 * factor]
    assert (first.grad_norm, second.grad_norm) == (3, 5 * factor)


def test_a_tensor_absent_from_all_steps_is_not_stepped_and_one_absent_from_some_is() -> None:
    state = accumulating(2, {"type": "SGD", "lr": 1.0, "weight_decay": 0.5})
    state.tensors["b"].values[:] = 8
    take(state, sent([1.0, 1.0]))
    take(state, sent([1.0, 1.0]))
    assert (state.tensors["w"].steps, state.tensors["b"].steps) == (1, 0)
    take(state, sent(b=2.0))
    take(state, sent([1.0, 1.0]))
    assert (state.tensors["w"].steps, state.tensors["b"].steps) == (2, 1)
    assert values(state, "b") == 8 - (1.0 + 4.0)


def test_clipping_is_of_what_was_accumulated() -> None:
    state = accumulating(2, clip={"type": "norm", "max_norm": 1.0})
    records = [take(state, sent([30.0, 0.0])), take(state, sent([-30.0, 2.0]))]
    assert [(r.grad_norm, r.clipped) for r in records] == [(30, False), (1, True)]
    assert values(state, "w") == pytest.approx([0, -1 / (1 + 1e-6)], rel=1e-12)


def test_a_rate_of_the_client_counts_in_the_step_that_makes_the_update() -> None:
    state = accumulating(2)
    records = [
        take(state, sent([1.0, 1.0]), Asked(lr=7.0, loss=0.5)),
        take(state, sent([1.0, 1.0]), Asked(lr=0.25)),
    ]
    assert [(r.lr, r.next_lr, r.asked.loss) for r in records] == [
        ([7.0], [1.0], 0.5),
        ([0.25], [1.0], None),
    ]
    assert values(state, "w").tolist() == [-0.25, -0.25]


def test_one_step_to_an_update_is_no_accumulation() -> None:
    one, none = (
        accumulating(1, ADAMW),
        started(config(ADAMW), packed_all({"w": [0.0, 0.0], "b": 0.0})),
    )
    for state in (one, none):
        record = take(state, sent([1.0, 2.0]))
        assert told(record) == (True, None)
    assert frozen(one)[1] == frozen(none)[1]


@pytest.mark.parametrize("j", [0, 1, 2])
def test_a_non_finite_gradient_is_refused_and_nothing_happens(j: int) -> None:
    state = accumulating(3)
    for _ in range(j):
        take(state, sent([1.0, 1.0]))
    before = frozen(state)
    with pytest.raises(NonFiniteGradient) as refusal:
        take(state, sent([1.0, np.nan]))
    assert [fault.pointer for fault in refusal.value.faults] == ["/grads/w/1"]
    assert frozen(state) == before


def test_a_skipped_step_takes_its_number_and_does_not_count() -> None:
    state = accumulating(2, on_nonfinite="skip", scheduler=HALVING)
    records = [take(state, sent([g, 1.0])) for g in (np.inf, 1.0, np.nan, 3.0, 1.0)]
    assert [told(r) for r in records] == [
        (False, 0),
        (False, 1),
        (False, 1),
        (True, 2),
        (False, 1),
    ]
    assert [r.grad_norm is None for r in records] == [True, False, True, False, False]
    assert [r.lr for r in records] == [[1.0]] * 4 + [[0.5]]
    assert (state.step, state.updates) == (5, 1)
    assert values(state, "w").tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("mode", ["mean", "sum"])
def test_what_so_many_of_would_overflow_is_refused_at_once(mode: str) -> None:
    settings_ = config(SGD, DType.F32, accumulate={"steps": 4, "mode": mode})
    state = started(settings_, packed_all({"w": [0.0, 0.0], "b": 0.0}, DType.F32))
    with pytest.raises(NonFiniteGradient, match="overflows when 4 like it are added") as refusal:
        take(state, packed_all({"w": [1.0, -3e38]}, DType.F32))
    assert [fault.pointer for fault in refusal.value.faults] == ["/grads/w/1"]


def test_an_update_that_cannot_be_used_is_refused_or_dropped_whole() -> None:
    for policy in ("reject", "skip"):
        state = accumulating(2, ADAMW, on_nonfinite=policy, scheduler=HALVING)
        take(state, sent([1e200, 1.0]))
        before = frozen(state)
        if policy == "reject":
            with pytest.raises(NonFiniteGradient, match="overflows when squared"):
                take(state, sent([1.0, 1.0]))
            assert frozen(state) == before
            continue
        record = take(state, sent([1.0, 1.0]))
        assert (told(record), record.next_lr) == ((False, 0), [0.05])
        assert not [key for key in frozen(state)[1] if key.startswith("grad_sum/")]
        assert [told(take(state, sent([1.0, 1.0]))) for _ in range(2)] == [(False, 1), (True, 2)]


def test_a_tensor_frozen_in_between_is_not_stepped() -> None:
    state = accumulating(2)
    take(state, sent([1.0, 1.0], 1.0))
    state.config = state.config.model_copy(update={"freeze": ["b"]})
    state.frozen = frozenset({"b"})
    record = take(state, sent([1.0, 1.0], 1.0))
    assert (record.frozen, state.tensors["b"].steps) == (1, 0)
    assert values(state, "b") == 0
    assert values(state, "w").tolist() == [-1.0, -1.0]
    assert not [key for key in frozen(state)[1] if key.startswith("grad_sum/")]


def test_the_footprint_counts_the_sums() -> None:
    state, plain = accumulating(2), started(config(SGD), packed_all({"w": [0.0, 0.0], "b": 0.0}))
    assert state.nbytes == plain.nbytes + 3 * 8
    take(state, sent([1.0, 1.0], 1.0))
    assert state.nbytes == sum(array.nbytes for array in state.flat.values())


GRADIENT = st.floats(-100, 100, width=16) | st.sampled_from([float("nan"), 0.0])
LOGS = st.lists(
    st.fixed_dictionaries(
        {}, optional={"w": st.lists(GRADIENT, min_size=2, max_size=2), "b": GRADIENT}
    ).filter(bool),
    max_size=12,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    gradients=LOGS,
    k=st.sampled_from([2, 3, 5]),
    mode=st.sampled_from(["mean", "sum"]),
    optimizer=st.sampled_from([{**SGD, "momentum": 0.9}, ADAMW, {"type": "LAMB", "lr": 0.1}]),
    clip=st.sampled_from([None, {"type": "norm", "max_norm": 1}, {"type": "adaptive"}]),
    freeze=st.sampled_from([[], ["b"]]),
    policy=st.sampled_from(["reject", "skip"]),
    cut=st.integers(0, 12),
)
def test_a_replayed_log_is_the_session_that_lived_through_snapshots_and_files(
    gradients: list[dict[str, Any]],
    k: int,
    mode: str,
    optimizer: dict[str, Any],
    clip: Any,
    freeze: list[str],
    policy: str,
    cut: int,
) -> None:
    accumulate = {"steps": k, "mode": mode}
    settings_ = config(
        optimizer, accumulate=accumulate, clip=clip, freeze=freeze, on_nonfinite=policy
    )
    params = packed_all({"w": [1.0, 2.0], "b": 0.5})
    live_, again = started(settings_, params), started(settings_, params)
    entries = 0
    for values_ in gradients:
        present = packed_all(values_, DType.F16)
        try:
            entry = step_entry(live_, present)
        except GradstepError:
            continue
        advance(live_, entry, present, COMPUTE)
        replay(again, entry, memoryview(b"".join(body(present))), COMPUTE)
        assert frozen(again) == frozen(live_)
        entries += 1
        if entries == cut:
            seal, seq = again.seal, again.seq
            again = restored(*captured(again))
            again.seal = seal
            assert frozen(again) == frozen(live_)
            loaded = through_a_file(again)
            assert frozen(loaded)[1] == frozen(live_)[1]
            assert (loaded.updates, loaded.accumulated) == (live_.updates, live_.accumulated)
            assert again.seq == seq


def through_a_file(state: State) -> State:
    """Return an empty session that has been given a state."""
    tensors, metadata = exported(state)
    file = imported(tensors, metadata)
    other = State.new(state.config, 0.0)
    advance(other, init_entry(file), file.tensors, COMPUTE)
    return other


@settings(derandomize=True, deadline=None, max_examples=60)
@given(gradients=LOGS, k=st.sampled_from([2, 3]), data=st.data())
def test_a_snapshot_whose_pieces_are_of_different_entries_leads_to_the_same_state(
    gradients: list[dict[str, Any]], k: int, data: st.DataObject
) -> None:
    state = accumulating(k, ADAMW, on_nonfinite="skip")
    for _ in range(k + 1):  # all slots are there
        take(state, sent([1.0, 2.0], 3.0))
    capture = Capture.begin(state)
    pieces = [piece for batch in pieces_of(state) for piece in batch]
    halves = [
        piece._replace(start=a, stop=b)
        for piece in pieces
        for a, b in ((0, 1), (1, piece.stop))
        if a < b
    ]
    copied: list[memoryview] = []
    log = []
    for values_ in gradients:
        while bool(halves) and data.draw(st.booleans()):
            parts = capture.copy(state, [halves.pop(0)])
            assert parts is not None
            copied += parts
        present = packed_all(values_)
        entry = step_entry(state, present)
        log.append((entry, present))
        advance(state, entry, present, COMPUTE)
    for piece in halves:
        parts = capture.copy(state, [piece])
        assert parts is not None
        copied += parts
    for part in copied:
        capture.add(part)
    again = restored(capture.sealed(state), copied)
    for entry, present in log:
        advance(again, entry, present, COMPUTE)
    assert frozen(again) == frozen(state)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_sums_have_the_same_bits_on_any_number_of_threads(threads: int) -> None:
    rng = np.random.default_rng(5)
    settings_ = config(ADAMW, DType.F32, accumulate={"steps": 3})
    params = {"w": packed(rng.standard_normal(300_001), DType.F32)}
    gradients = [{"w": packed(rng.standard_normal(300_001), DType.BF16)} for _ in range(3)]
    compute = Compute(threads)
    states = [started(settings_, params) for _ in range(2)]
    for one in gradients:
        assert take(states[0], one) == take(states[1], one, compute=compute)
    compute.close()
    assert frozen(states[0]) == frozen(states[1])
