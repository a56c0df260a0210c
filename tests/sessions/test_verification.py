"""A session that is whole passes, whatever it went through and whoever uses it meanwhile."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lived_session import (
    ENTRIES,
    KEPT,
    PARAMS,
    REWINDS,
    SETTINGS,
    TRIMMED,
    PieceByPiece,
    header_of,
    log_of,
    of_the_same,
    problems,
    rewind,
    verified,
)
from session_runs import REF, SlowStore, created, live, opened, step
from session_states import COMPUTE, captured, config, packed_all

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch, ForkConfig
from gradstep_server.sessions.digests import canonical, snapshot_seal
from gradstep_server.sessions.errors import SessionNotFound, StoreUnavailable
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Entry
from gradstep_server.sessions.verification import Report, verify
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def test_the_session_of_these_tests_has_what_can_be_damaged(store: PieceByPiece) -> None:
    log = log_of(store)
    assert {seq: kept.base for seq, (kept, _) in log.snapshots.items()} == KEPT
    assert (log.trimmed, len(log.entries)) == (TRIMMED, ENTRIES)
    assert {entry.kind for entry in log.entries} == {"init", "step", "epoch", "config", "rewind"}
    assert tuple(entry.seq for entry in log.entries if entry.kind == "rewind") == REWINDS


async def test_a_session_that_is_whole_passes(store: PieceByPiece) -> None:
    told: list[tuple[int, int]] = []
    header = await header_of(store)
    report = await verify(store, header, COMPUTE, lambda *at: told.append(at))
    read = sum(map(len, log_of(store).bodies))
    read += sum(len(body) for _, body in log_of(store).snapshots.values())
    assert report == Report(23, ENTRIES, len(KEPT), read, ())
    assert told == [(seq, ENTRIES) for seq in range(1, ENTRIES + 1)]


async def test_sessions_without_a_step_or_without_parameters_pass() -> None:
    sessions = opened(MemoryStore())
    await sessions.create(REF, SETTINGS, None)
    assert (await verified(sessions._store)).problems == ()
    await sessions.set_params(REF, PARAMS, generation=None)
    assert (await verified(sessions._store)).problems == ()


async def test_a_fork_passes(store: PieceByPiece) -> None:
    await opened(store).fork(REF, "f", 20, ForkConfig(lr=0.5), generation=None)
    forked = await store.load("alice", "f")
    assert forked is not None
    assert (await verify(store, forked, COMPUTE)).problems == ()


async def test_a_snapshot_from_before_pieces_passes(store: PieceByPiece) -> None:
    sessions = opened(store)
    await sessions.view(REF)
    state = live(sessions)
    facts, tensors = state.dump()
    index = [(name, t.dtype, list(t.shape)) for name, t in sorted(tensors.items())]
    body = b"".join(tensors[name].data for name, _, _ in index)
    record = canonical({**facts, "tensors": index})
    seal = snapshot_seal(ENTRIES, record, [memoryview(body)])
    old = replace(captured(state)[0], record=record, seal=seal, body_size=len(body))
    log_of(store).snapshots[ENTRIES] = (old, body)
    assert await problems(store) == []


async def test_a_log_that_is_trimmed_up_to_its_only_snapshot_passes() -> None:
    store = MemoryStore()
    sessions = await created(store, policy=SnapshotPolicy(steps=3))
    for n in range(1, 10):
        await step(sessions, n)
        await sessions.close()
    log = log_of(store)
    first = min(log.snapshots)
    log.snapshots = {first: log.snapshots[first]}
    assert log.trimmed == first
    assert await problems(store) == []


class Meanwhile(PieceByPiece):
    """A store in which something happens whenever an entry has been read."""

    def __init__(self, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._happens = happens

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        async for found in super().replay(key, after, upto):
            yield found
            await self._happens()


@pytest.mark.parametrize("every", [2, 3, 5])
@pytest.mark.parametrize("before", [SnapshotPolicy(steps=2), SnapshotPolicy()])
async def test_a_log_that_grows_and_is_trimmed_meanwhile_is_no_damage(
    every: int, before: SnapshotPolicy
) -> None:
    store = SlowStore()
    retaining = config({"type": "Adam", "lr": 0.1}, retain="all")
    await (await created(store, retaining, steps=20, policy=before)).close()
    sessions = opened(store, policy=SnapshotPolicy(steps=2))
    patch = ConfigPatch(retain="none")
    await sessions.patch(REF, patch, generation=None, version=None)
    read = 0

    async def go_on() -> None:
        nonlocal read
        read += 1
        if read % every == 0 and read < 60:
            position = live(sessions).step
            await step(sessions, position + 1)
            await sessions.close()
            if read % (5 * every) == 0:
                await rewind(sessions, position)

    assert await problems(of_the_same(store, Meanwhile(go_on))) == []
    assert log_of(store).trimmed > 10
    assert await problems(store) == []


class Forgetful(PieceByPiece):
    """A store that drops every snapshot right before it is read."""

    async def snapshot(self, _: str, seq: int) -> None:
        snapshots = log_of(self).snapshots
        del snapshots[seq]
        snapshots[seq + ENTRIES] = ()

    async def snapshots(self, _: str) -> list[tuple[int, int]]:
        return [(seq, seq) for seq in log_of(self).snapshots]


async def test_a_log_that_is_trimmed_faster_than_it_is_read_is_not_said_to_be_whole(
    store: PieceByPiece,
) -> None:
    with pytest.raises(StoreUnavailable, match="is trimmed faster than it can be verified"):
        await verified(of_the_same(store, Forgetful()))


async def test_a_session_that_is_deleted_meanwhile_is_no_damage(store: PieceByPiece) -> None:
    async def delete() -> None:
        await store.delete(await header_of(store), None)

    with pytest.raises(SessionNotFound):
        await verified(of_the_same(store, Meanwhile(delete)))


async def test_one_state_is_in_memory_beside_what_is_read() -> None:
    store = MemoryStore()
    sessions = opened(store, 1 << 30, SnapshotPolicy(steps=2))
    large = packed_all({"w": np.linspace(-1, 1, 1 << 20)})
    await sessions.create(REF, config({"type": "Adam", "lr": 0.1}, retain="all"), large)
    for n in range(1, 6):
        await step(sessions, n, {"w": np.full(1 << 20, 0.1 * n)})
        await sessions.close()
    nbytes = live(sessions).nbytes
    assert len(log_of(store).snapshots) == 2
    tracemalloc.start()
    try:
        report = await verified(store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.problems == ()
    assert 0.9 * nbytes < peak < 1.9 * nbytes


PROGRAMS = st.lists(
    st.sampled_from(["step", "step", "step", "patch", "epoch", "restart", "settle"])
    | st.floats(0, 1).map(lambda share: ("rewind", share)),
    max_size=40,
)


async def run(sessions: Sessions, command: Any, count: int) -> None:
    """Do one command of a program."""
    view = await sessions.view(REF)
    if command == "step":
        await step(sessions, view.step + 1, {"w": [0.1 * count, -1.0, 0.5, 0.25, 2.0]})
    elif command == "patch":
        patch = ConfigPatch(lr=0.01 * count)
        await sessions.patch(REF, patch, generation=None, version=None)
    elif command == "epoch":
        await sessions.end_epoch(REF, view.epoch + 1, None, generation=None)
    elif command == "settle":
        await sessions.close()
    elif view.oldest_step <= view.step:
        _, share = command
        await rewind(sessions, view.oldest_step + round(share * (view.step - view.oldest_step)))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    program=PROGRAMS,
    every=st.integers(1, 6),
    retain=st.sampled_from(["none", "all", 1, 5]),
    durability=st.sampled_from(["step", "relaxed"]),
)
def test_whatever_a_session_went_through_it_passes(
    program: list[Any], every: int, retain: Any, durability: str
) -> None:
    async def main() -> None:
        store, policy = PieceByPiece(), SnapshotPolicy(steps=every)
        sessions = opened(store, policy=policy)
        chosen = SETTINGS.model_copy(update={"retain": retain, "durability": durability})
        await sessions.create(REF, chosen, PARAMS)
        for count, command in enumerate(program, start=1):
            if command == "restart":
                await sessions.close()
                sessions = opened(store, policy=policy)
            else:
                await run(sessions, command, count)
        assert await problems(store) == []
        await sessions.close()
        assert await problems(store) == []

    asyncio.run(main())
