"""A relaxed session says what may be lost, and after a loss no one goes on as if nothing was."""

from __future__ import annotations

import asyncio

import pytest
from session_runs import ADAM, REF, created, held, live, opened, step

from gradstep_server.sessions import background
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import GenerationMismatch, StoreUnavailable
from gradstep_server.sessions.store import Basis, Body, Entry, Head
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

RELAXED = ADAM.model_copy(update={"durability": "relaxed"})


class LosingStore(MemoryStore):
    """A store that forgets what was not synced when its power is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.unsynced = False
        self.suspect = False
        self.syncs_fail = False
        self.was_synced = asyncio.Event()
        self.kept = 0
        """The last entry that is synced."""

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
        await super().append(key, entry, body, after=after, basis=basis)
        durable = synced or not self.unsynced
        self.unsynced = not synced
        if synced:
            self.suspect = False
        if durable:
            self.kept = entry.seq
        return durable

    async def sync(self, key: str) -> None:
        if self.syncs_fail:
            raise StoreUnavailable("the disk did not sync")
        self.unsynced = False
        self.kept = len(self._log(key).entries)
        self.was_synced.set()

    async def head(self, key: str) -> Head:
        head = self._log(key).head()
        return Head(head.seq, head.step, head.updated_at, head.seal, head.trimmed, self.suspect)

    def cut_power(self) -> None:
        """Lose what was not synced; the next look finds a suspect log."""
        for log in self._logs.values():
            del log.entries[max(self.kept, 1) :], log.bodies[max(self.kept, 1) :]
        self.suspect = self.unsynced


async def test_a_receipt_says_which_step_is_synced() -> None:
    sessions = await created(LosingStore(), RELAXED)
    durable = [(await step(sessions, n)).receipt.durable_step for n in range(1, 5)]
    assert durable == [1, 1, 1, 1]
    assert (await sessions.view(REF)).durable_step == 1


async def test_a_session_that_syncs_every_step_says_so() -> None:
    sessions = await created(LosingStore())
    assert [(await step(sessions, n)).receipt.durable_step for n in (1, 2, 3)] == [1, 2, 3]


async def test_steps_are_synced_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SYNC_AFTER", 0.01)
    store = LosingStore()
    sessions = await created(store, RELAXED, steps=5)
    await asyncio.wait_for(store.was_synced.wait(), 5)
    await asyncio.sleep(0)
    assert (await step(sessions, 5)).receipt.durable_step == 5


async def test_closing_syncs() -> None:
    store = LosingStore()
    sessions = await created(store, RELAXED, steps=5)
    await sessions.close()
    store.cut_power()
    assert (await opened(store).view(REF)).step == 5


async def test_changes_are_synced_at_once() -> None:
    store = LosingStore()
    sessions = await created(store, RELAXED, steps=3)
    view = await sessions.patch(REF, ConfigPatch(lr=0.5), generation=None, version=None)
    assert view.durable_step == 3
    store.cut_power()
    assert (await opened(store).view(REF)).seq == 5


async def test_a_loss_raises_the_generation_and_a_retry_from_before_it_is_refused() -> None:
    store = LosingStore()
    await created(store, RELAXED, steps=5)
    store.cut_power()
    after = opened(store)
    view = await after.view(REF)
    assert (view.step, view.durable_step, view.generation) == (1, 1, 2)
    with pytest.raises(GenerationMismatch) as caught:
        await step(after, 6, generation=1)
    assert caught.value.extra == {"generation": 2}
    with pytest.raises(GenerationMismatch):
        await step(after, 2, {"b": 9.0}, generation=1)
    for n in range(2, 6):
        await step(after, n, generation=2)
    assert (await held(after))[1] == (await held(await created(MemoryStore(), steps=5)))[1]
    assert await held(opened(store)) == await held(after)


async def test_without_a_loss_the_generation_stays() -> None:
    store = LosingStore()
    await created(store, RELAXED, steps=5)
    assert (await opened(store).view(REF)).generation == 1


async def test_a_sync_that_fails_is_told_and_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "SYNC_AFTER", 0.0)
    store = LosingStore()
    sessions = await created(store, RELAXED, steps=1)
    store.syncs_fail = True
    assert (await step(sessions, 2)).receipt.durable_step == 1
    await sessions.close()
    assert "no sync of session s: the disk did not sync" in caplog.text
    store.syncs_fail = False
    await step(sessions, 3)
    await sessions.close()
    assert (await sessions.view(REF)).durable_step == 3


class SharedLosingStore(LosingStore):
    """The same, and other processes append to it."""

    shared = True


async def test_a_process_whose_memory_is_ahead_of_the_store_forgets_it() -> None:
    store = SharedLosingStore()
    one = await created(store, RELAXED, steps=6)
    store.kept = 5
    store.cut_power()
    other = opened(store)
    for n in range(5, 8):  # the same numbers, another history
        await step(other, n, {"b": float(n)})
    assert (await other.view(REF)).generation == 2
    assert live(one).step == 6
    assert (await step(one, 8)).receipt.generation == 2
    assert await held(one) == await held(other)


async def test_an_append_onto_another_history_of_the_same_length_is_refused() -> None:
    store = SharedLosingStore()
    one = await created(store, RELAXED, steps=6)
    store.kept = 4
    store.cut_power()
    other = opened(store)
    await other.view(REF)
    for n in (4, 5):
        await step(other, n, {"b": float(n)})
    assert (live(one).seq, live(other).seq) == (7, 7)
    assert (await step(one, 6)).receipt.generation == 2
    assert (await other.view(REF)).step == 6
    assert await held(one) == await held(other)


class BrokenRecovery(LosingStore):
    """A store that fails in the moment of a recovery."""

    breaks = False

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
        if self.breaks:
            raise StoreUnavailable("the disk went away")
        return await super().append(key, entry, body, after=after, synced=synced, basis=basis)


async def test_a_session_is_not_served_before_its_loss_is_on_record() -> None:
    store = BrokenRecovery()
    await created(store, RELAXED, steps=5)
    store.cut_power()
    after = opened(store)
    store.breaks = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await after.view(REF)
    store.breaks = False
    assert (await after.view(REF)).generation == 2
