"""A large step changes its tensors while it is appended, and no one sees it before it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from session_runs import ADAM, REF, live, opened
from session_states import frozen, packed_all

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.receipts import Stepped
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import PARAMS
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.store import Basis, Body, Entry
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

MANY = 300_000
"""Elements that are worth a thread."""

PATIENCE = 10.0


class WaitingStore(MemoryStore):
    """A store whose append goes on when it is told to, and fails if it is to."""

    def __init__(self, *, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fails = ""

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        self.begun.set()
        await self.go_on.wait()
        if self.fails == "before":
            raise StoreUnavailable("the disk went away")
        done = await super().append(key, entry, body, after=after, synced=synced, basis=basis)
        if self.fails == "after":
            raise StoreUnavailable("the connection went away")
        return done


def gradients(n: int) -> Mapping[str, NDArray[np.float64]]:
    return {"w": np.random.default_rng(n).standard_normal(MANY), "b": np.ones(3)}


async def created(store: WaitingStore, steps: int = 2) -> Sessions:
    sessions = opened(store, budget=1 << 26)
    await sessions.create(REF, ADAM, packed_all({"w": np.ones(MANY), "b": np.zeros(3)}))
    for n in range(1, steps + 1):
        await step(sessions, n)
    return sessions


async def step(sessions: Sessions, n: int) -> Stepped:
    sent = packed_all(gradients(n))
    return await sessions.step(REF, n, sent, Asked(), generation=None, want_params=True)


async def held_back(store: WaitingStore, sessions: Sessions, n: int) -> asyncio.Task[Stepped]:
    """Begin a step whose append waits; return when its tensors have changed nevertheless."""
    store.go_on.clear()
    store.begun.clear()
    values = live(sessions).flat[PARAMS]
    before = values[[0, -1]].copy()
    task = asyncio.create_task(step(sessions, n))
    await store.begun.wait()
    until = time.monotonic() + PATIENCE
    while (values[[0, -1]] == before).any():
        assert time.monotonic() < until
        await asyncio.sleep(0.001)
    return task


async def test_no_one_reads_a_step_before_it_is_committed() -> None:
    store = WaitingStore()
    sessions = await created(store)
    task = await held_back(store, sessions, 3)
    assert (live(sessions).step, live(sessions).seq) == (2, 3)
    reader = asyncio.create_task(sessions.params(REF))
    viewer = asyncio.create_task(sessions.view(REF))
    await asyncio.sleep(0.05)
    assert [reader.done(), viewer.done(), task.done()] == [False] * 3
    store.go_on.set()
    stepped, read, view = await task, await reader, await viewer
    assert (stepped.receipt.step, read.step, view.step) == (3, 3, 3)
    assert stepped.params is not None
    assert bytes(read.tensors["w"].data) == bytes(stepped.params.tensors["w"].data)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("fails", "position"), [("before", 2), ("after", 3)])
async def test_a_failed_append_leaves_nothing_of_the_step_but_what_is_in_the_log(
    fails: str, position: int, shared: bool
) -> None:
    store = WaitingStore(shared=shared)
    sessions = await created(store)
    task = await held_back(store, sessions, 3)
    store.fails = fails
    store.go_on.set()
    with pytest.raises(StoreUnavailable):
        await task
    store.fails = ""
    await sessions.view(REF)
    never_failed = await created(WaitingStore(), steps=position)
    assert frozen(live(sessions)) == frozen(live(never_failed))
    again = await step(sessions, 3)
    assert (again.receipt.replayed, again.receipt.position) == (position == 3, 3)


async def test_a_cancelled_append_leaves_nothing_of_the_step() -> None:
    store = WaitingStore()
    sessions = await created(store)
    task = await held_back(store, sessions, 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    store.go_on.set()
    await sessions.view(REF)
    assert frozen(live(sessions)) == frozen(live(await created(WaitingStore())))


async def test_a_lost_race_leaves_nothing_of_the_step() -> None:
    store = WaitingStore(shared=True)
    sessions = await created(store)
    task = await held_back(store, sessions, 3)
    other = opened(store, budget=1 << 26)
    winner = asyncio.create_task(step(other, 3))  # the same step, through another process
    await asyncio.sleep(0.05)
    store.go_on.set()
    first, second = await task, await winner
    assert sorted([first.receipt.replayed, second.receipt.replayed]) == [False, True]
    expected = frozen(live(await created(WaitingStore(), steps=3)))
    assert frozen(live(sessions)) == frozen(live(other)) == expected
