"""What sessions tell whoever watches, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

import pytest
from session_runs import ADAM, PARAMS, REF, created, held, opened
from session_states import packed_all

from gradstep_server.errors import InvalidRequest
from gradstep_server.sessions import background
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.errors import StorageFull
from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.observer import SnapshotOutcome
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.store import Snapshot, SnapshotWriter
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

OFTEN = SnapshotPolicy(steps=5)


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.entries: list[int] = []
        self.evictions = 0
        self.snapshots: list[SnapshotOutcome] = []

    def rebuilt(self, entries: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.entries.append(entries)

    def evicted(self) -> None:
        self.evictions += 1

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.snapshots.append(outcome)


class PatientStore(MemoryStore):
    """A store that writes no snapshot before it is told to, or fails to."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.begun = asyncio.Event()

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        async with super().snapshot_writer(key) as writer:
            yield _Patient(self, writer)


class _Patient:
    def __init__(self, store: PatientStore, writer: SnapshotWriter) -> None:
        self._store = store
        self._writer = writer

    async def write(self, part: memoryview) -> None:
        self._store.begun.set()
        if self._store.failure is not None:
            raise self._store.failure
        await asyncio.Event().wait()
        await self._writer.write(part)

    async def commit(self, snapshot: Snapshot) -> None:
        await self._writer.commit(snapshot)


async def test_the_laps_of_a_step_are_all_of_its_time() -> None:
    sessions = await created()
    began, laps = perf_counter(), Laps()
    sent = packed_all({"w": [1.0, 1.0]})
    await sessions.step(REF, 1, sent, Asked(), generation=None, want_params=True, laps=laps)
    whole = perf_counter() - began
    assert list(laps.seconds) == ["digest", "wait", "compute", "append", "copy"]
    assert all(seconds > 0 for seconds in laps.seconds.values())
    assert whole * 0.5 < sum(laps.seconds.values()) < whole


async def test_the_laps_of_a_step_that_is_refused_end_where_it_was() -> None:
    sessions = await created()
    laps, sent = Laps(), packed_all({"nothing": [1.0]})
    with pytest.raises(InvalidRequest):
        await sessions.step(REF, 1, sent, Asked(), generation=None, want_params=True, laps=laps)
    assert list(laps.seconds) == ["digest", "wait"]


async def test_a_rebuilt_session_tells_how_much_was_replayed() -> None:
    store, told = MemoryStore(), Told()
    await created(store, steps=7)
    await opened(store, observer=told).view(REF)
    assert told.entries == [8]  # the parameters and seven steps


async def test_an_eviction_is_told_and_memory_is_counted() -> None:
    told = Told()
    sessions = opened(MemoryStore(), 100, observer=told)
    assert (sessions.memory().sessions, sessions.memory().budget) == (0, 100)
    for name in ("a", "b"):
        await sessions.create(("alice", name), ADAM, PARAMS)
    assert told.evictions == 1
    assert sessions.memory().sessions == 1
    assert sessions.memory().nbytes == 3 * 8 * 3


async def test_a_snapshot_that_is_kept_is_told() -> None:
    told = Told()
    sessions = await created(steps=5, policy=OFTEN, observer=told)
    await sessions.close()
    assert told.snapshots == ["kept"]


async def test_a_snapshot_that_fails_is_told() -> None:
    told = Told()
    sessions = await created(
        PatientStore(StorageFull("no space")), steps=5, policy=OFTEN, observer=told
    )
    await sessions.close()
    assert told.snapshots == ["failed"]


async def test_the_end_of_the_service_abandons_a_snapshot_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "LAST_PIECES", 0.05)
    store, told = PatientStore(), Told()
    sessions = await created(store, steps=5, policy=OFTEN, observer=told)
    await store.begun.wait()
    async with asyncio.timeout(30):
        await sessions.close()
    assert told.snapshots == ["abandoned"]
    restarted = opened(store)
    assert await held(restarted) == await held(sessions)
    key = restarted._hot._all[REF].loaded()[0].key
    assert not await store.snapshots(key)
