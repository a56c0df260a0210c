"""Snapshots bound the log, hold up no step, and what starts from one is the same session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from session_runs import REF, SlowStore, created, held, live, opened, step
from session_states import config, packed_all

from gradstep_server.sessions import snapshots
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import SessionCorrupt, StepConflict, StorageFull
from gradstep_server.sessions.receipts import View
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import SnapshotWriter
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

STEP_BYTES = 24
"""The gradients of one step, of 3 float64."""

OFTEN = SnapshotPolicy(log_factor=0, floor=STEP_BYTES)
"""A snapshot as soon as the log has grown by two steps."""


def key(sessions: Sessions) -> str:
    return sessions._hot._all[REF].loaded()[0].key


async def test_a_snapshot_is_due_once_the_log_outgrows_the_state() -> None:
    store = MemoryStore()
    sessions = await created(store, policy=SnapshotPolicy(floor=0))
    assert live(sessions).nbytes == 3 * STEP_BYTES
    for n in range(1, 14):
        await step(sessions, n)
        await sessions.close()
        assert bool(await store.snapshots(key(sessions))) == (n > 12)


async def test_a_snapshot_is_due_after_so_many_steps() -> None:
    store = MemoryStore()
    sessions = await created(store, policy=SnapshotPolicy(steps=5))
    for n in range(1, 11):
        await step(sessions, n)
        await sessions.close()
    assert [seq for seq, _ in await store.snapshots(key(sessions))] == [6, 11]


async def test_a_snapshot_is_due_after_so_many_seconds() -> None:
    store = MemoryStore()
    sessions = await created(store, policy=SnapshotPolicy(seconds=20))  # the clock ticks when asked
    for n in range(1, 21):
        await step(sessions, n)
        await sessions.close()
    assert 1 <= len(await store.snapshots(key(sessions))) <= 3


async def test_no_snapshot_is_due_of_a_short_log() -> None:
    store = MemoryStore()
    sessions = await created(store, steps=30)
    await sessions.close()
    assert not await store.snapshots(key(sessions))


async def test_a_session_restarts_from_a_snapshot_and_a_trimmed_log() -> None:
    store = SlowStore()
    sessions = await created(store, steps=20, policy=OFTEN)
    await sessions.close()
    assert (await store.snapshots(key(sessions)))[-1][0] > 15
    with pytest.raises(SessionCorrupt):
        [entry async for entry in store.replay(key(sessions), 0)]
    restarted = opened(store)
    assert await held(restarted) == await held(sessions)
    await step(restarted, 21)
    await step(sessions, 21)
    plain = await created(SlowStore(), steps=21)
    assert (await held(restarted))[1] == (await held(plain))[1]


async def test_trimmed_steps_still_answer_retries() -> None:
    sessions = await created(SlowStore(), steps=20, policy=OFTEN)
    await sessions.close()
    assert (await step(sessions, 1)).receipt.replayed
    with pytest.raises(StepConflict):
        await step(sessions, 2, {"b": 3.0})
    assert len((await sessions.history(REF, 0, 100)).receipts) == 20


class FullStore(MemoryStore):
    """A store with no room for snapshots."""

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        async with super().snapshot_writer(key) as writer:
            yield _Full(writer)


class _Full:
    def __init__(self, writer: SnapshotWriter) -> None:
        self.commit = writer.commit

    async def write(self, _: memoryview) -> None:
        raise StorageFull("no space left")


async def test_a_snapshot_that_fails_costs_nothing_but_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FullStore()
    sessions = await created(store, steps=5, policy=OFTEN)
    await sessions.close()
    assert "no snapshot of session s: no space left" in caplog.text
    assert await held(opened(store)) == await held(sessions)


async def test_a_session_that_is_deleted_before_its_snapshot_leaves_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions = await created(SlowStore(), steps=1, policy=OFTEN)
    await step(sessions, 2)
    await sessions.delete(REF, version=None)
    await sessions.close()
    assert all(record.levelname == "WARNING" for record in caplog.records)


class SteppingStore(MemoryStore):
    """A store in which something happens while a piece of a snapshot is written."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        async with super().snapshot_writer(key) as writer:
            yield _Stepping(writer, self.meanwhile)


class _Stepping:
    def __init__(self, writer: SnapshotWriter, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.commit = writer.commit
        self._writer = writer
        self._meanwhile = meanwhile

    async def write(self, part: memoryview) -> None:
        await self._writer.write(part)
        await self._meanwhile()


LARGE = packed_all({"w": [1.0, 2.0, 3.0, 4.0, 5.0], "b": 0.5, "c": [1.0, 2.0]})


ADAM = {"type": "Adam", "lr": 0.1}
SGD = {"type": "SGD", "lr": 0.1, "momentum": 0.9}
NADAM = {"type": "NAdam", "lr": 0.1}


async def walked(
    store: MemoryStore, steps: int, policy: SnapshotPolicy, optimizer: dict[str, Any] = ADAM
) -> Sessions:
    """Return sessions of which one was stepped, patched, and partly stepped."""
    sessions = opened(store, policy=policy)
    await sessions.create(REF, config(optimizer), LARGE)
    for n in range(1, steps + 1):
        await walk(sessions, n)
    return sessions


async def walk(sessions: Sessions, n: int) -> None:
    """Take step n, whose gradients leave out one tensor or another; patch now and then."""
    gradients: dict[str, Any] = {"w": [0.1 * n, 1.0, -1.0, 0.5, 0.25], "b": -0.3, "c": [0.5, n]}
    del gradients[("b", "c", "w")[n % 3]]
    await step(sessions, n, gradients)
    if n % 4 == 0:
        patch = ConfigPatch.model_validate({"optimizer": {"maximize": n % 8 == 0}})
        await sessions.patch(REF, patch, generation=None, version=None)


@pytest.mark.parametrize("optimizer", [ADAM, SGD, NADAM])
async def test_a_snapshot_taken_while_steps_go_on_is_the_session(
    monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, Any]
) -> None:
    monkeypatch.setattr(snapshots, "PIECE", 2)
    taken = 5

    async def go_on() -> None:
        nonlocal taken
        if taken < 20:
            taken += 1
            await walk(sessions, taken)

    store = SteppingStore(go_on)
    sessions = await walked(store, 4, SnapshotPolicy(steps=5), optimizer)
    await walk(sessions, 5)
    await sessions.close()
    (seq, base), *_ = await store.snapshots(key(sessions))
    assert seq > base + 5
    kept = await store.snapshot(key(sessions), seq)
    assert kept is not None
    assert len({piece[3] for piece in orjson.loads(kept[0].record)["pieces"]}) == 4
    await walk(sessions, taken + 1)
    log = store._logs[key(sessions)]
    log.bodies[:base] = [b""] * base
    log.trimmed = base

    plain = await walked(MemoryStore(), taken + 1, SnapshotPolicy(), optimizer)
    for some in (sessions, opened(store)):
        assert (await held(some))[1] == (await held(plain))[1]


async def test_a_snapshot_is_given_up_when_the_session_is_rewound_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "PIECE", 2)

    rewound: list[View] = []

    async def go_back() -> None:
        if not rewound:
            rewound.append(await sessions.rewind(REF, 2, generation=None, version=None))

    store = SteppingStore(go_back)
    sessions = await walked(store, 5, SnapshotPolicy(steps=5))
    await sessions.close()
    assert rewound
    assert not await store.snapshots(key(sessions))
    await walk(sessions, 3)
    await sessions.close()
    assert len(await store.snapshots(key(sessions))) == 1  # it was still due
    assert await held(opened(store)) == await held(sessions)
