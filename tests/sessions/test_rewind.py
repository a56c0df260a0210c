"""Going back: to what the session was, in a generation of its own, or beside it in a fork."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from session_runs import ADAM, REF, SharedStore, SlowStore, created, held, live, opened, step
from session_states import config, frozen, packed_all

from gradstep_server.sessions.background import DEFAULT_POLICY, SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch, ForkConfig
from gradstep_server.sessions.errors import (
    GenerationMismatch,
    ParamsMissing,
    PreconditionFailed,
    SessionConflict,
    SessionDeleted,
    StepGone,
    StepNotFound,
)
from gradstep_server.sessions.receipts import View
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

OFTEN = SnapshotPolicy(steps=3)


async def rewound(sessions: Sessions, to: int) -> View:
    return await sessions.rewind(REF, to, generation=None, version=None)


async def forked(sessions: Sessions, new_id: str, at: int | None = None, **changes: Any) -> View:
    asked = ForkConfig.model_validate(changes)
    return await sessions.fork(REF, new_id, at, asked, generation=None)


def content(state: State) -> Any:
    """Return what a rewind restores: all but the place in the log and the generation."""
    facts, tensors = frozen(state)
    return {k: v for k, v in facts.items() if k not in {"seq", "generation", "updated_at"}}, tensors


async def present(sessions: Sessions) -> Any:
    await sessions.view(REF)
    return content(live(sessions))


async def test_a_rewound_session_is_what_it_was_and_goes_on_from_there() -> None:
    sessions = await created(steps=3)
    was = await present(sessions)
    await step(sessions, 4, {"w": [9.0, 9.0]})
    view = await rewound(sessions, 3)
    assert (view.step, view.generation, view.seq, view.replayed) == (3, 2, 6, False)
    assert await present(sessions) == was
    await step(sessions, 4)
    assert (await present(sessions))[1] == (await held(await created(steps=4)))[1]


@pytest.mark.parametrize("policy", [DEFAULT_POLICY, OFTEN])
async def test_a_rewound_session_is_loaded_as_it_was(policy: SnapshotPolicy) -> None:
    store = SlowStore()
    sessions = await created(store, steps=5, policy=policy)
    await rewound(sessions, 4)
    await step(sessions, 5, {"b": 2.0})
    await rewound(sessions, 4)
    await step(sessions, 5, {"b": 3.0})
    await sessions.close()
    assert await held(opened(store)) == await held(sessions)


async def test_hyperparameters_and_schedule_are_restored() -> None:
    schedule = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    sessions = await created(settings=config({"type": "Adam", "lr": 0.1}, scheduler=schedule))
    await step(sessions, 1)
    before = await sessions.view(REF)
    patch = ConfigPatch.model_validate({"lr": 7.0, "scheduler": None, "name": "changed"})
    await sessions.patch(REF, patch, generation=None, version=None)
    await step(sessions, 2)
    after = await rewound(sessions, 1)
    assert (after.config, after.lr, after.clock) == (before.config, before.lr, before.clock)


async def test_epochs_ended_behind_the_step_are_undone() -> None:
    sessions = await created(
        settings=config(
            {"type": "SGD", "lr": 1.0},
            scheduler={"type": "ExponentialLR", "gamma": 0.5},
            schedule_on="epoch",
        )
    )
    await step(sessions, 1)
    for e in (1, 2):
        await sessions.end_epoch(REF, e, None, generation=None)
    view = await rewound(sessions, 1)
    assert (view.epoch, view.lr) == (0, [1.0])
    assert (await sessions.end_epoch(REF, 1, 0.5, generation=None)).lr == [0.5]


async def test_a_step_from_before_a_rewind_is_refused_by_its_generation() -> None:
    sessions = await created(steps=3)
    await rewound(sessions, 2)
    with pytest.raises(GenerationMismatch) as caught:
        await step(sessions, 3, generation=1)
    assert caught.value.extra == {"generation": 2}
    assert (await step(sessions, 3, {"b": 0.0}, generation=2)).receipt.step == 3


async def test_a_rewind_that_is_retried_with_its_version_is_replayed() -> None:
    sessions = await created(steps=3)
    for replayed in (False, True):
        view = await sessions.rewind(REF, 1, generation=1, version=(1, 4))
        assert (view.replayed, view.generation, view.step) == (replayed, 2, 1)
    await step(sessions, 2)
    with pytest.raises(GenerationMismatch):
        await sessions.rewind(REF, 0, generation=1, version=(1, 4))
    again = await sessions.rewind(REF, 1, generation=1, version=(1, 4))
    assert (again.replayed, again.generation, again.step) == (True, 2, 2)


async def test_a_rewind_of_another_version_is_refused() -> None:
    sessions = await created(steps=3)
    with pytest.raises(PreconditionFailed):
        await sessions.rewind(REF, 1, generation=None, version=(1, 3))
    assert (await sessions.view(REF)).seq == 4


async def test_a_patch_from_before_a_rewind_is_not_taken_for_done() -> None:
    sessions = await created(steps=1)
    patch = ConfigPatch(lr=0.5)
    await sessions.patch(REF, patch, generation=None, version=(1, 2))
    await rewound(sessions, 1)
    with pytest.raises(PreconditionFailed):
        await sessions.patch(REF, patch, generation=None, version=(1, 2))


async def test_steps_that_were_not_taken_or_are_not_kept_are_named() -> None:
    sessions = await created(steps=20, policy=OFTEN)
    await sessions.close()
    with pytest.raises(StepNotFound):
        await rewound(sessions, 21)
    oldest = (await sessions.view(REF)).oldest_step
    assert 10 < oldest <= 20
    for attempt in (rewound(sessions, oldest - 1), sessions.params(REF, oldest - 1)):
        with pytest.raises(StepGone) as caught:
            await attempt
        assert caught.value.extra == {"oldest_step": oldest}
    assert (await rewound(sessions, oldest)).step == oldest


async def test_there_is_nothing_to_go_back_to_without_parameters() -> None:
    sessions = opened(SlowStore())
    await sessions.create(REF, ADAM, None)
    with pytest.raises(ParamsMissing):
        await rewound(sessions, 0)
    with pytest.raises(ParamsMissing):
        await sessions.params(REF, 0)
    assert (await forked(sessions, "f")).step == 0


async def test_the_beginning_can_be_gone_back_to() -> None:
    sessions = await created(steps=2)
    assert (await sessions.view(REF)).oldest_step == 0
    assert (await rewound(sessions, 0)).step == 0
    assert (await present(sessions)) == content(live(await created()))


@pytest.mark.parametrize(("retain", "at_least", "at_most"), [("all", 0, 0), (9, 5, 11), (30, 0, 0)])
async def test_as_many_steps_are_retained_as_were_asked_for(
    retain: Any, at_least: int, at_most: int
) -> None:
    settings = config({"type": "Adam", "lr": 0.1}, retain=retain)
    sessions = await created(settings=settings, steps=20, policy=OFTEN)
    await sessions.close()
    oldest = (await sessions.view(REF)).oldest_step
    assert at_least <= oldest <= at_most
    assert (await rewound(sessions, oldest)).step == oldest


async def test_steps_are_retained_though_snapshots_end_with_changes() -> None:
    settings = config({"type": "Adam", "lr": 0.1}, retain=2)
    sessions = await created(settings=settings, policy=SnapshotPolicy(steps=2))
    for n in range(1, 15):
        await step(sessions, n)
        await sessions.patch(REF, ConfigPatch(lr=0.1 / n), generation=None, version=None)
        if n % 3 == 0:
            await sessions.close()
        assert (await sessions.view(REF)).oldest_step <= max(0, n - 2)


async def test_history_and_receipts_are_those_of_the_branch() -> None:
    sessions = await created(steps=5)
    await rewound(sessions, 2)
    await step(sessions, 3, {"b": 1.0}, loss=0.5)
    page = await sessions.history(REF, 0, 100)
    assert [(receipt.step, receipt.loss) for receipt in page.receipts] == [
        (1, None),
        (2, None),
        (3, 0.5),
    ]
    first = await sessions.history(REF, 0, 2)
    assert ([r.step for r in first.receipts], first.next) == ([1, 2], 2)
    assert (await sessions.receipt(REF, 3)).loss == 0.5
    with pytest.raises(StepNotFound):
        await sessions.receipt(REF, 4)


async def test_parameters_after_a_step_are_those_that_it_answered_with() -> None:
    sessions = await created()
    answered = {}
    for n in range(1, 6):
        params = (await step(sessions, n)).params
        assert params is not None
        answered[n] = {name: bytes(t.data) for name, t in params.tensors.items()}
    for n, tensors in answered.items():
        again = await sessions.params(REF, n)
        assert again.step == n
        assert {name: bytes(t.data) for name, t in again.tensors.items()} == tensors


async def test_what_is_rebuilt_beside_the_session_is_counted_and_let_go() -> None:
    sessions = await created(steps=2)
    before = list(sessions._hot._all)
    await sessions.params(REF, 1)
    assert list(sessions._hot._all) == before


async def test_a_fork_goes_on_by_itself() -> None:
    sessions = await created(steps=4)
    view = await forked(sessions, "f", 2, lr=0.5, name="branch")
    assert (view.id, view.step, view.lr, view.config.name) == ("f", 2, [0.5], "branch")
    assert view.forked_from is not None
    assert (view.forked_from.id, view.forked_from.step) == ("s", 2)
    assert (view.oldest_step, view.generation) == (2, 1)
    fork, source = await sessions.params(("alice", "f")), await sessions.params(REF, 2)
    assert {n: bytes(t.data) for n, t in fork.tensors.items()} == {
        n: bytes(t.data) for n, t in source.tensors.items()
    }
    assert (await sessions.view(REF)).step == 4


async def test_a_fork_without_changes_takes_the_same_steps_bit_for_bit() -> None:
    sessions = await created(steps=5)
    await forked(sessions, "f", 3)
    sent = packed_all({"w": [0.4, 0.4], "b": 1.0})
    done = await sessions.step(("alice", "f"), 4, sent, Asked(), generation=None, want_params=True)
    plain = await sessions.params(REF, 4)
    assert done.params is not None
    assert {n: bytes(t.data) for n, t in done.params.tensors.items()} == {
        n: bytes(t.data) for n, t in plain.tensors.items()
    }


async def test_a_fork_of_the_present_includes_what_followed_the_step() -> None:
    sessions = await created(steps=1)
    await sessions.patch(REF, ConfigPatch(lr=0.7), generation=None, version=None)
    assert (await forked(sessions, "now")).lr == [0.7]
    assert (await forked(sessions, "then", 1)).lr == [0.1]


async def test_a_fork_is_made_once_and_its_id_is_its_own() -> None:
    store = MemoryStore()
    sessions = await created(store, steps=2)
    assert (await forked(sessions, "f", 1)).replayed is False
    await rewound(sessions, 0)  # so that it could not be made any more
    assert (await forked(sessions, "f", 1)).replayed is True
    for attempt in (forked(sessions, "f", 0), forked(sessions, "f", 1, lr=0.5)):
        with pytest.raises(SessionConflict):
            await attempt
    with pytest.raises(SessionConflict):
        await forked(sessions, "s")
    await sessions.delete(("alice", "f"), version=None)
    with pytest.raises(SessionDeleted):
        await forked(sessions, "f", 1)


async def test_of_racing_forks_one_is_made() -> None:
    sessions = await created(SharedStore(), steps=2)
    views = await asyncio.gather(*(forked(sessions, "f", 1) for _ in range(5)))
    assert sorted(view.replayed for view in views) == [False, True, True, True, True]


async def test_another_process_sees_a_rewind_and_goes_on_behind_it() -> None:
    store = SharedStore()
    one = await created(store, steps=3)
    other = opened(store)
    assert (await other.view(REF)).step == 3
    await rewound(one, 1)
    await step(one, 2, {"b": 2.0})
    assert await held(other) == await held(one)
    await step(other, 3, {"b": 3.0})
    await rewound(other, 2)
    assert await held(one) == await held(other)
