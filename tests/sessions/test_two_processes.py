"""Two processes on one store see each other's writes, and never take a step twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from session_runs import REF, SharedStore, SlowStore, created, held, opened, step

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import (
    PositionMismatch,
    SessionCorrupt,
    SessionNotFound,
    StepConflict,
)
from gradstep_server.sessions.receipts import Stepped

pytestmark = pytest.mark.anyio

OFTEN = SnapshotPolicy(log_factor=0, floor=0)
"""A snapshot after every step."""


async def test_steps_may_alternate_between_processes() -> None:
    store = SharedStore()
    processes = [await created(store), opened(store)]
    for n in range(1, 11):
        answer = await step(processes[n % 2], n)
        assert (answer.receipt.position, answer.receipt.replayed) == (n, False)
        assert (await processes[(n + 1) % 2].view(REF)).step == n
    alone = await created(SlowStore(), steps=10)
    for process in processes:
        assert (await held(process))[1] == (await held(alone))[1]


async def test_the_same_step_through_both_is_taken_once() -> None:
    store = SharedStore()
    first = await created(store)
    second = opened(store)
    for n in range(1, 6):
        answers = await asyncio.gather(step(first, n), step(second, n), step(first, n))
        assert sorted(answer.receipt.replayed for answer in answers) == [False, True, True]
    assert await held(first) == await held(second)


async def test_of_different_steps_through_both_one_wins() -> None:
    store = SharedStore()
    first = await created(store)
    second = opened(store)
    await second.view(REF)
    answers = await asyncio.gather(
        step(first, 1, {"b": 1.0}), step(second, 1, {"b": 2.0}), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["StepConflict", "Stepped"]
    (lost,) = [answer for answer in answers if isinstance(answer, StepConflict)]
    assert lost.extra == {"expected": 2}
    assert await held(first) == await held(second)


async def test_steps_without_a_number_through_both_take_all_positions() -> None:
    store = SharedStore()
    processes = [await created(store), opened(store)]
    answers = await asyncio.gather(*(step(processes[i % 2], None) for i in range(10)))
    assert sorted(answer.receipt.step for answer in answers) == list(range(1, 11))
    assert await held(processes[0]) == await held(processes[1])


async def test_a_patch_in_one_is_seen_by_the_other() -> None:
    store = SharedStore()
    first = await created(store)
    second = opened(store)
    await second.view(REF)
    await first.patch(REF, ConfigPatch(lr=0.01), generation=None, version=None)
    assert (await step(second, 1)).receipt.lr == [0.01]


async def test_a_wrong_position_tells_where_the_store_stands() -> None:
    store = SharedStore()
    first = await created(store)
    second = opened(store)
    await second.view(REF)
    await step(first, 1)
    await step(first, 2)
    with pytest.raises(PositionMismatch) as refusal:
        await step(second, 5)
    assert refusal.value.extra == {"expected": 3}


async def test_a_session_deleted_in_one_is_gone_in_the_other() -> None:
    store = SharedStore()
    first = await created(store, steps=1)
    second = opened(store)
    await second.view(REF)
    assert await first.delete(REF, version=None) is False
    for attempt in (second.view(REF), step(second, 2)):
        with pytest.raises(SessionNotFound):
            await attempt
    assert await second.delete(REF, version=None) is True


async def test_deleting_in_one_while_the_other_steps_leaves_no_session() -> None:
    store = SharedStore()
    first = await created(store)
    second = opened(store)
    await second.view(REF)
    outcomes = await asyncio.gather(
        first.delete(REF, version=None), step(second, 1), return_exceptions=True
    )
    assert outcomes[0] is False
    assert isinstance(outcomes[1], (Stepped, SessionNotFound))
    with pytest.raises(SessionNotFound):
        await second.view(REF)


async def test_one_that_fell_behind_a_trimmed_log_goes_on_from_the_snapshot() -> None:
    store = SharedStore()
    behind = await created(store)
    ahead = opened(store, policy=OFTEN)
    for n in range(1, 9):
        await step(ahead, n)
        await ahead.close()
    key = ahead._hot._all[REF].loaded()[0].key
    with pytest.raises(SessionCorrupt):
        [entry async for entry in store.replay(key, 1)]
    assert (await step(behind, 9)).receipt.position == 9
    assert await held(ahead) == await held(behind)


class InterruptedStore(SharedStore):
    """A store in which something happens once, right behind a look at the snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        kept = await super().snapshots(key)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return kept


async def test_a_log_that_is_trimmed_while_it_is_loaded_is_not_damaged() -> None:
    store = InterruptedStore()
    ahead = await created(store, policy=OFTEN)

    async def go_on() -> None:
        for n in range(1, 9):
            await step(ahead, n)
            await ahead.close()

    store.meanwhile = go_on
    assert (await opened(store).view(REF)).step == 8
