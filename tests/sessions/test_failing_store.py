"""When an append fails, memory is held against the log before the session answers again."""

from __future__ import annotations

import asyncio

import pytest
from session_runs import ADAM, PARAMS, REF, BreakingStore, created, held, opened, step

from gradstep_server.optimizers import Compute
from gradstep_server.sessions import transitions
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("breaks", "replayed"), [("before", False), ("after", True)])
async def test_a_step_whose_append_failed_is_taken_once(breaks: str, replayed: bool) -> None:
    store = BreakingStore()
    sessions = await created(store, steps=2)
    store.breaks = breaks
    with pytest.raises(StoreUnavailable):
        await step(sessions, 3)
    assert (await sessions.view(REF)).step == (3 if replayed else 2)
    again = await step(sessions, 3)
    assert (again.receipt.replayed, again.receipt.position) == (replayed, 3)
    never_failed = await created(BreakingStore(), steps=3)
    assert (await held(sessions))[1] == (await held(never_failed))[1]
    assert (await step(sessions, 4)).receipt.position == 4


@pytest.mark.parametrize(("breaks", "replayed"), [("before", False), ("after", True)])
async def test_a_patch_whose_append_failed_is_done_once(breaks: str, replayed: bool) -> None:
    store = BreakingStore()
    sessions = await created(store, steps=1)
    store.breaks = breaks
    patch = ConfigPatch(lr=0.01)
    with pytest.raises(StoreUnavailable):
        await sessions.patch(REF, patch, generation=None, version=(1, 2))
    view = await sessions.patch(REF, patch, generation=None, version=(1, 2))
    assert (view.replayed, view.seq, view.lr) == (replayed, 3, [0.01])


@pytest.mark.parametrize(("breaks", "replayed"), [("before", False), ("after", True)])
async def test_parameters_whose_append_failed_are_set_once(breaks: str, replayed: bool) -> None:
    store = BreakingStore()
    sessions = opened(store)
    await sessions.create(REF, ADAM, None)
    store.breaks = breaks
    with pytest.raises(StoreUnavailable):
        await sessions.set_params(REF, PARAMS, generation=None)
    view = await sessions.set_params(REF, PARAMS, generation=None)
    assert (view.replayed, view.seq) == (replayed, 1)


@pytest.mark.parametrize(("breaks", "behind"), [("before", []), ("after", [3])])
async def test_after_a_failed_append_only_what_the_log_gained_is_replayed(
    breaks: str, behind: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, replayed = BreakingStore(), []
    sessions = await created(store, steps=2)
    advance = transitions.replay

    def replay(state: State, entry: Entry, body: memoryview, compute: Compute) -> None:
        replayed.append(entry.step)
        advance(state, entry, body, compute)

    monkeypatch.setattr("gradstep_server.sessions.timeline.replay", replay)
    store.breaks = breaks
    with pytest.raises(StoreUnavailable):
        await step(sessions, 3)
    assert (await step(sessions, 3)).receipt.replayed is bool(behind)
    assert replayed == behind


async def test_a_step_that_is_cancelled_after_its_commit_is_replayed() -> None:
    store = BreakingStore()
    sessions = await created(store)
    store.breaks = "never answers"
    task = asyncio.create_task(step(sessions, 1))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await step(sessions, 1)
    assert (again.receipt.replayed, again.receipt.position) == (True, 1)


async def test_a_failure_is_not_seen_by_those_who_wait_for_the_session() -> None:
    store = BreakingStore()
    sessions = await created(store)
    store.breaks = "after"
    answers = await asyncio.gather(*(step(sessions, 1) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers[:1]] == [StoreUnavailable]
    later = [answer for answer in answers[1:] if not isinstance(answer, BaseException)]
    assert [answer.receipt.replayed for answer in later] == [True, True]
