"""Sessions in the middle of an accumulation: loaded, rewound, forked, changed, sent as a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from session_runs import REF, created, held, live, opened, step
from session_states import (
    COMPUTE,
    config,
    packed_all,
)

from gradstep_server.sessions.config import ConfigPatch, ForkConfig
from gradstep_server.sessions.errors import InvalidConfig, InvalidTensors
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import Tensors
from gradstep_server.sessions.transfer import exported, imported
from gradstep_server.sessions.verification import verify
from gradstep_server.stores.memory import MemoryStore

HALVING = {"type": "ExponentialLR", "gamma": 0.5}
K3 = config({"type": "Adam", "lr": 0.1}, accumulate={"steps": 3}, retain="all", scheduler=HALVING)


@pytest.mark.anyio
async def test_a_session_goes_on_in_the_middle_after_loading_rewinding_and_forking() -> None:
    store = MemoryStore()
    sessions = await created(store, K3, steps=7)
    straight = await held(sessions)
    assert live(sessions).accumulated == 1
    assert await held(opened(store)) == straight
    await sessions.rewind(REF, 5, generation=None, version=None)
    assert (live(sessions).updates, live(sessions).accumulated) == (1, 2)
    for n in (6, 7):
        await step(sessions, n)
    assert (await held(sessions))[1] == straight[1]
    await sessions.fork(REF, "fork", 5, ForkConfig(), generation=None)
    for n in (6, 7):
        taken = await sessions.step(
            ("alice", "fork"), n, packed_all({"w": np.full(2, 0.1 * n), "b": 1.0}), Asked(),
            generation=None, want_params=False,
        )  # fmt: skip
        assert taken.receipt.accumulated == (3 if n == 6 else 1)
    assert exported_of(sessions, "fork")[0] == exported_of(sessions, "s")[0]
    header = await store.load(*REF)
    assert header is not None
    assert (await verify(store, header, COMPUTE)).problems == ()


def exported_of(sessions: Sessions, name: str) -> tuple[dict[str, bytes], dict[str, str]]:
    state = sessions._hot._all["alice", name].state
    assert state is not None
    tensors, metadata = exported(state)
    return {key: bytes(tensor.data) for key, tensor in tensors.items()}, metadata


@pytest.mark.anyio
async def test_accumulation_changes_only_where_nothing_is_accumulated() -> None:
    sessions = await created(MemoryStore(), K3, steps=4)
    for change in ({"accumulate": None}, {"accumulate": {"steps": 2}}):
        patch = ConfigPatch.model_validate(change)
        with pytest.raises(InvalidConfig, match="1 of 3 steps") as refusal:
            await sessions.patch(REF, patch, generation=None, version=None)
        assert [fault.pointer for fault in refusal.value.faults] == ["/accumulate"]
        fork = ForkConfig.model_validate(change)
        with pytest.raises(InvalidConfig):
            await sessions.fork(REF, "fork", 4, fork, generation=None)
    same = ConfigPatch.model_validate({"accumulate": {"steps": 3}, "lr": 0.5})
    await sessions.patch(REF, same, generation=None, version=None)
    for n in (5, 6):
        await step(sessions, n)
    before = live(sessions).nbytes
    ended = ConfigPatch.model_validate({"accumulate": None})
    await sessions.patch(REF, ended, generation=None, version=None)
    assert live(sessions).nbytes == before - 3 * 8
    assert "grad_sum" not in live(sessions).flat
    assert (await step(sessions, 7)).receipt.accumulated is None
    assert (live(sessions).step, live(sessions).updates) == (7, 3)


async def load(sessions: Sessions, tensors: Tensors, metadata: dict[str, str]) -> None:
    await sessions.set_state(REF, imported(tensors, metadata), generation=None)


@pytest.mark.parametrize(
    ("more", "metadata", "pointer"),
    [
        ({"grad_sum/w": [1.0, 1.0]}, {}, "/__metadata__/accumulated"),
        ({}, {"accumulated": "3", "updates": "0"}, "/__metadata__/accumulated"),
        ({"grad_sum/w": [1.0]}, {"accumulated": "1"}, "/grad_sum/w"),
        ({"grad_sum/x": [1.0]}, {"accumulated": "1"}, "/grad_sum/x"),
        ({"grad_sum/w": [1.0, np.inf]}, {"accumulated": "1"}, "/grad_sum/w"),
        ({}, {"accumulated": "1", "updates": "5"}, "/__metadata__/updates"),
    ],
)
@pytest.mark.anyio
async def test_a_file_with_sums_that_do_not_fit_is_refused(
    more: dict[str, Any], metadata: dict[str, str], pointer: str
) -> None:
    sessions = opened(MemoryStore())
    await sessions.create(REF, K3, None)
    facts = {"format": "gradstep-state", "version": "1", "step": "5", "epoch": "0", "origin": "0"}
    tensors = packed_all({"params/w": [1.0, 2.0], **more})
    with pytest.raises(InvalidTensors) as refusal:
        await load(sessions, tensors, {**facts, "counters": "{}", **metadata})
    assert [fault.pointer for fault in refusal.value.faults] == [pointer]
