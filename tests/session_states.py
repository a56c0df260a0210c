"""Sessions without a store: states, and what steps do to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradstep_server.optimizers import OPTIMIZERS, Compute
from gradstep_server.sessions import stepping
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.digests import content_digest
from gradstep_server.sessions.entries import INIT, STEP, Planned, sealed_entry
from gradstep_server.sessions.snapshots import Capture, empty_state, fill_in, pieces_of, proven
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked, StepRecord
from gradstep_server.sessions.store import Body, Entry, Snapshot
from gradstep_server.sessions.tensors import DType, Tensor, Tensors
from gradstep_server.sessions.transfer import StateFile
from gradstep_server.sessions.transitions import advance

COMPUTE = Compute(1)
"""Starts no thread."""

NOON = 1_700_000_000.0

Array = NDArray[Any]


def packed(values: ArrayLike, dtype: DType = DType.F64) -> Tensor:
    """Return numbers as a tensor, rounded to `dtype`."""
    array = np.asarray(values, dtype.master.storage)
    return Tensor.of(np.ascontiguousarray(array).ravel(), array.shape, dtype)


def packed_all(values: Mapping[str, ArrayLike], dtype: DType = DType.F64) -> dict[str, Tensor]:
    return {name: packed(value, dtype) for name, value in values.items()}


def config(optimizer: Mapping[str, Any], dtype: DType = DType.F64, **more: Any) -> SessionConfig:
    return SessionConfig.model_validate({"optimizer": optimizer, "dtype": dtype, **more})


def by_adamw(
    optimizer: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[dict[str, Any]]:
    """Return the group of those tensors that an optimizer does not step, if there are any."""
    kind = OPTIMIZERS[optimizer["type"]]()
    names = [name for name, shape in shapes.items() if kind.unfit(shape)]
    return [{"match": names, "optimizer": {"type": "AdamW", "lr": 0.1}}] if names else []


def init_entry(file: StateFile) -> Entry:
    """Return the first entry of a log, as a session writes it."""
    content = content_digest({"kind": INIT, **file.asked()}, file.tensors)
    planned = Planned(0, file.step, file.record())
    return sealed_entry(1, INIT, planned, content, file.tensors, NOON)


def started(settings: SessionConfig, params: Tensors) -> State:
    """Return a session that has its initial parameters."""
    state = State.new(settings, NOON)
    file = StateFile.of_params(params)
    state.check(file.tensors, file.counters)
    advance(state, init_entry(file), file.tensors, COMPUTE)
    return state


def step_entry(
    state: State, gradients: Tensors, asked: Asked | None = None, compute: Compute = COMPUTE
) -> Entry:
    """Return the entry of the next step, as a session writes it."""
    asked = asked or Asked()
    stepping.check(state, gradients)
    record = stepping.plan(state, gradients, asked, compute)
    content = content_digest({"kind": STEP, **asked.model_dump()}, gradients)
    n = state.step + 1
    planned = Planned(n, n, record.model_dump_json().encode())
    return sealed_entry(state.seq + 1, STEP, planned, content, gradients, NOON + n)


def take(
    state: State, gradients: Tensors, asked: Asked | None = None, compute: Compute = COMPUTE
) -> StepRecord:
    """Step a session as the service does, and return what the log would keep."""
    entry = step_entry(state, gradients, asked, compute)
    advance(state, entry, gradients, compute)
    return StepRecord.model_validate_json(entry.record)


def values(state: State, name: str) -> Array:
    """Return a parameter's masters in their shape, copied."""
    tensor = state.tensors[name]
    return tensor.values.reshape(tensor.shape).copy()


def frozen(state: State) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """Return everything a state holds, to be compared bit for bit."""
    facts, tensors = state.dump()
    return {**facts, "seq": state.seq}, {
        name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in tensors.items()
    }


def damaged(entry: Entry, **fields: Any) -> Entry:
    """Return the entry with other fields under the same seal."""
    return replace(entry, **fields)


def captured(state: State) -> tuple[Snapshot, Body]:
    """Return a snapshot of a state that stands still."""
    capture = Capture.begin(state)
    body: list[memoryview] = []
    for batch in pieces_of(state):
        parts = capture.copy(state, batch)
        assert parts is not None
        for part in parts:
            capture.add(part)
        body += parts
    return capture.sealed(state), body


def restored(snapshot: Snapshot, parts: Body) -> State:
    """Return what a snapshot holds, as a session that is loaded does."""
    body = memoryview(b"".join(parts))
    facts = proven(snapshot, body)
    state = empty_state(snapshot, facts)
    fill_in(state, facts, body)
    return state
