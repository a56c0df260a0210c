"""What is dropped in the background is never what a rewind goes back to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from session_runs import REF, SharedStore, SlowStore, created, held, live, opened, step
from session_states import config

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ForkConfig
from gradstep_server.sessions.entries import REWIND
from gradstep_server.sessions.errors import SessionCorrupt, StepGone
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Basis, Body, Entry, Store

pytestmark = pytest.mark.anyio

OFTEN = SnapshotPolicy(steps=2)


async def is_whole(sessions: Sessions, store: Store) -> bool:
    """Whether what is in memory is what another process loads."""
    return bool(await held(opened(store)) == await held(sessions))


class HesitantStore(SlowStore):
    """A store that lets others go on before it trims."""

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await super().trim(key, oldest, rewound=rewound)


@pytest.mark.parametrize("pauses", range(0, 40, 3))
async def test_a_rewind_while_the_log_is_trimmed_stays_loadable(pauses: int) -> None:
    store = HesitantStore()
    sessions = await created(store, policy=OFTEN, steps=7)
    for _ in range(pauses):
        await asyncio.sleep(0)
    try:
        await sessions.rewind(REF, 3, generation=None, version=None)
    except StepGone:
        assert (await sessions.view(REF)).step == 7
    await sessions.close()
    assert await is_whole(sessions, store)


class BusyStore(SharedStore):
    """A store in which another process does something right before a rewind is appended."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

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
        if entry.kind == REWIND and self.meanwhile is not None:
            await self.meanwhile()
        return await super().append(key, entry, body, after=after, synced=synced, basis=basis)


async def test_a_rewind_whose_past_another_process_drops_meanwhile_is_refused() -> None:
    store = BusyStore()
    sessions = await created(store, policy=OFTEN, steps=9)
    await sessions.close()
    key = sessions._hot._all[REF].loaded()[0].key
    oldest = (await sessions.view(REF)).oldest_step

    async def trim() -> None:
        await store.trim(key, (await store.snapshots(key))[-1][0])

    store.meanwhile = trim
    with pytest.raises(StepGone):
        await sessions.rewind(REF, oldest, generation=None, version=None)
    assert (await sessions.view(REF)).step == 9
    assert await is_whole(sessions, store)


async def test_a_trim_that_has_not_seen_a_rewind_drops_nothing() -> None:
    store = SharedStore()
    sessions = await created(store, policy=OFTEN, steps=9)
    await sessions.close()
    key = sessions._hot._all[REF].loaded()[0].key
    kept = await store.snapshots(key)
    await sessions.rewind(
        REF, (await sessions.view(REF)).oldest_step, generation=None, version=None
    )
    await store.trim(key, kept[-1][0], rewound=0)
    assert await store.snapshots(key) == kept
    assert await is_whole(sessions, store)


async def test_what_others_have_done_counts_as_durable_once_it_is_synced() -> None:
    store = SharedStore()
    one = await created(store, steps=9)
    other = opened(store)
    assert (await other.view(REF)).durable_step == 9
    await one.rewind(REF, 3, generation=None, version=None)
    assert (await other.view(REF)).durable_step == 3
    assert live(other).step == 3


class CountingStore(SlowStore):
    """A store that counts how often it is asked for a rewind."""

    asked = 0

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        self.asked += kind == REWIND
        return await super().newest(key, kind, upto)


async def test_many_rewinds_do_not_make_a_look_slow() -> None:
    store = CountingStore()
    sessions = await created(store, policy=OFTEN)
    for n in range(1, 40):
        await step(sessions, n)
        await sessions.rewind(REF, n, generation=None, version=None)
    await sessions.close()
    store.asked = 0
    assert (await sessions.view(REF)).step == 39
    assert store.asked < 10


class TrimmingStore(SlowStore):
    """A store whose log is trimmed in the moment before it is replayed."""

    trims = False

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        kept = await super().snapshots(key)
        if self.trims and len(kept) > 1:
            await self.trim(key, kept[-1][0])
        return kept


@pytest.mark.parametrize("what", ["rewind", "params", "fork"])
async def test_what_is_trimmed_while_it_is_asked_for_is_gone_and_not_damaged(what: str) -> None:
    store = TrimmingStore()
    keeping = config({"type": "Adam", "lr": 0.1}, retain="all")
    sessions = await created(store, keeping, steps=20, policy=OFTEN)
    await sessions.close()
    store.trims = True
    asked = {
        "rewind": sessions.rewind(REF, 1, generation=None, version=None),
        "params": sessions.params(REF, 1),
        "fork": sessions.fork(REF, "f", 1, ForkConfig(), generation=None),
    }
    attempt = asked.pop(what)
    for other in asked.values():
        other.close()
    with pytest.raises(StepGone):
        await attempt
    assert (await step(sessions, 21)).receipt.position == 21


async def test_a_damaged_rewind_does_not_lead_round_and_round() -> None:
    store = SlowStore()
    sessions = await created(store, steps=3)
    await sessions.rewind(REF, 1, generation=None, version=None)
    log = store._logs[sessions._hot._all[REF].loaded()[0].key]
    log.entries[-1] = replace(log.entries[-1], n=5)
    with pytest.raises(SessionCorrupt):
        await asyncio.wait_for(opened(store).view(REF), 5)
