"""Every command is done once, however often and from however many sides it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from session_runs import ADAM, PARAMS, REF, SlowStore, created, held, opened, step
from session_states import config, packed, packed_all

from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    GenerationMismatch,
    InvalidConfig,
    InvalidTensors,
    NonFiniteGradient,
    ParamsConflict,
    ParamsMissing,
    PositionMismatch,
    PreconditionFailed,
    SessionConflict,
    SessionDeleted,
    SessionNotFound,
    StepConflict,
    StepNotFound,
)
from gradstep_server.sessions.receipts import Stepped
from gradstep_server.sessions.transfer import StateFile

pytestmark = pytest.mark.anyio

EPOCHS = config({"type": "SGD"}, schedule_on="epoch", scheduler={"type": "StepLR", "step_size": 1})
GROWING = {"type": "ExponentialLR", "gamma": 1e200}


async def test_of_the_same_step_sent_at_once_one_is_fresh_and_the_others_replayed() -> None:
    sessions = await created()
    answers = await asyncio.gather(*(step(sessions, 1) for _ in range(6)))
    assert sorted(answer.receipt.replayed for answer in answers) == [False] + [True] * 5
    assert len({(a.receipt.step, a.receipt.position, a.seq) for a in answers}) == 1
    alone = await created(steps=1)
    assert await held(sessions) == await held(alone)


async def test_a_step_that_is_large_enough_for_a_thread_is_taken_once_too() -> None:
    sessions = opened(SlowStore(), 64 << 20)
    await sessions.create(REF, ADAM, {"w": packed(np.zeros(70_000))})
    gradients = {"w": np.ones(70_000)}
    answers = await asyncio.gather(*(step(sessions, 1, gradients) for _ in range(4)))
    assert sorted(answer.receipt.replayed for answer in answers) == [False, True, True, True]
    await asyncio.gather(step(sessions, 2, gradients), step(sessions, 1, gradients))
    before = await held(sessions)
    await sessions.close()
    assert before[0]["step"] == 2
    restarted = opened(sessions._store, 64 << 20)
    assert await held(restarted) == before


async def test_of_different_steps_sent_at_once_one_wins_and_the_others_learn_the_position() -> None:
    sessions = await created()
    attempts = (step(sessions, 1, {"b": float(i)}) for i in range(6))
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    won = [answer for answer in answers if isinstance(answer, Stepped)]
    lost = [answer for answer in answers if isinstance(answer, StepConflict)]
    assert (len(won), len(lost)) == (1, 5)
    assert {error.extra["expected"] for error in lost} == {2}


async def test_steps_without_a_number_take_positions_one_after_the_other() -> None:
    sessions = await created()
    answers = await asyncio.gather(*(step(sessions, None) for _ in range(6)))
    assert [answer.receipt.step for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert not any(answer.receipt.replayed for answer in answers)


async def test_an_old_step_is_replayed_with_the_present_parameters() -> None:
    sessions = await created(steps=3)
    before = await held(sessions)
    again = await step(sessions, 1)
    assert (again.receipt.step, again.receipt.position, again.receipt.replayed) == (1, 3, True)
    assert again.params == await sessions.params(REF)
    assert again.receipt == await sessions.receipt(REF, 1)
    assert await held(sessions) == before


@pytest.mark.parametrize("asked", [{"loss": 0.5}, {"lr": 0.1}])
async def test_what_comes_with_the_gradients_is_content_too(asked: dict[str, Any]) -> None:
    sessions = await created(steps=2)
    with pytest.raises(StepConflict) as refusal:
        await step(sessions, 2, **asked)
    assert refusal.value.extra == {"expected": 3}


@pytest.mark.parametrize("n", [-1, 0, 4, 2**53])
async def test_a_step_that_is_not_next_is_refused(n: int) -> None:
    sessions = await created(steps=2)
    with pytest.raises(PositionMismatch) as refusal:
        await step(sessions, n)
    assert refusal.value.extra == {"expected": 3}


async def test_a_bad_step_leaves_no_trace() -> None:
    sessions = await created(steps=1)
    before = await held(sessions)
    bad: list[dict[str, Any]] = [{"v": 1.0}, {"b": [1.0]}, {"b": float("nan")}, {"b": 1e200}]
    for gradients in bad:
        with pytest.raises((InvalidTensors, NonFiniteGradient)):
            await step(sessions, 2, gradients)
    assert await held(sessions) == before


async def test_receipts_and_history_tell_of_every_step() -> None:
    sessions = await created(steps=5)
    page = await sessions.history(REF, 1, 3)
    assert ([receipt.step for receipt in page.receipts], page.next) == ([2, 3, 4], 4)
    assert page.receipts[0] == await sessions.receipt(REF, 2)
    rest = await sessions.history(REF, 4, 3)
    assert ([receipt.step for receipt in rest.receipts], rest.next) == ([5], None)
    for n in (0, 6):
        with pytest.raises(StepNotFound):
            await sessions.receipt(REF, n)


async def test_a_session_is_created_once() -> None:
    sessions = opened(SlowStore())
    first = await sessions.create(REF, ADAM, PARAMS)
    await step(sessions, 1)
    again = await sessions.create(REF, ADAM, dict(reversed(PARAMS.items())))
    assert (first.replayed, again.replayed, again.step) == (False, True, 1)
    others = [(ADAM.model_copy(update={"name": "x"}), PARAMS), (ADAM, None)]
    for settings, params in [*others, (ADAM, PARAMS | {"b": packed(0.25)})]:
        with pytest.raises(SessionConflict):
            await sessions.create(REF, settings, params)


async def test_of_racing_creators_one_is_first_and_the_others_replayed() -> None:
    sessions = opened(SlowStore())
    views = await asyncio.gather(*(sessions.create(REF, ADAM, PARAMS) for _ in range(5)))
    assert sorted(view.replayed for view in views) == [False] + [True] * 4


@pytest.mark.parametrize(
    "params", [{}, {"w": packed([1.0]), "__metadata__": packed([1.0])}, {"": packed([1.0])}]
)
async def test_a_session_with_bad_parameters_is_not_created(params: Any) -> None:
    sessions = opened(SlowStore())
    with pytest.raises(InvalidTensors):
        await sessions.create(REF, ADAM, params)
    with pytest.raises(SessionNotFound):
        await sessions.view(REF)


async def test_parameters_are_set_once() -> None:
    sessions = opened(SlowStore())
    await sessions.create(REF, ADAM, None)
    with pytest.raises(ParamsMissing):
        await step(sessions, 1)
    attempts = (sessions.set_params(REF, PARAMS, generation=None) for _ in range(4))
    views = await asyncio.gather(*attempts)
    assert sorted(view.replayed for view in views) == [False, True, True, True]
    await step(sessions, 1)
    again = await sessions.set_params(REF, PARAMS, generation=None)
    assert (again.replayed, again.step) == (True, 1)
    with pytest.raises(ParamsConflict):
        await sessions.set_params(REF, packed_all({"w": [1.0, 2.0]}), generation=None)


async def test_parameters_given_at_creation_are_set() -> None:
    sessions = await created()
    assert (await sessions.set_params(REF, PARAMS, generation=None)).replayed


async def test_a_state_brings_its_position_with_it() -> None:
    sessions = opened(SlowStore())
    await sessions.create(REF, ADAM, None)
    tensors = {f"params/{name}": tensor for name, tensor in PARAMS.items()}
    view = await sessions.set_state(REF, StateFile(tensors, step=50), generation=None)
    assert view.step == 50
    with pytest.raises(PositionMismatch):
        await step(sessions, 50)
    assert (await step(sessions, 51)).receipt.step == 51


async def test_a_state_whose_rate_leaves_the_range_of_float64_is_refused() -> None:
    sessions = opened(SlowStore())
    settings = config({"type": "SGD"}, scheduler=GROWING)
    await sessions.create(REF, settings, None)
    file = StateFile({"params/w": packed([1.0])}, step=50)
    with pytest.raises(InvalidConfig):
        await sessions.set_state(REF, file, generation=None)
    assert (await sessions.view(REF)).shapes == {}


async def test_an_epoch_ends_once() -> None:
    sessions = await created(settings=EPOCHS)
    attempts = (sessions.end_epoch(REF, 1, 0.5, generation=None) for _ in range(4))
    receipts = await asyncio.gather(*attempts)
    assert sorted(receipt.replayed for receipt in receipts) == [False, True, True, True]
    assert {tuple(receipt.lr) for receipt in receipts} == {(0.0001,)}
    with pytest.raises(StepConflict) as conflict:
        await sessions.end_epoch(REF, 1, 0.25, generation=None)
    assert conflict.value.extra == {"expected": 2}
    with pytest.raises(PositionMismatch):
        await sessions.end_epoch(REF, 3, None, generation=None)
    assert (await sessions.end_epoch(REF, 2, None, generation=None)).epoch == 2


async def test_an_epoch_needs_a_schedule_that_counts_epochs_and_parameters() -> None:
    sessions = await created()
    with pytest.raises(EpochsNotUsed):
        await sessions.end_epoch(REF, 1, None, generation=None)
    await sessions.create(("alice", "empty"), EPOCHS, None)
    with pytest.raises(ParamsMissing):
        await sessions.end_epoch(("alice", "empty"), 1, None, generation=None)


async def test_a_patch_of_a_version_is_done_once() -> None:
    sessions = await created(steps=1)
    patch = ConfigPatch(lr=0.01)
    attempts = (sessions.patch(REF, patch, generation=None, version=(1, 2)) for _ in range(4))
    views = await asyncio.gather(*attempts)
    assert sorted(view.replayed for view in views) == [False, True, True, True]
    assert {(view.seq, *view.lr) for view in views} == {(3, 0.01)}
    stale = [(ConfigPatch(lr=0.02), (1, 2)), (patch, (1, 1)), (patch, (1, 9)), (patch, (2, 3))]
    for other, version in stale:
        with pytest.raises(PreconditionFailed) as refusal:
            await sessions.patch(REF, other, generation=None, version=version)
        assert refusal.value.extra == {"etag": "1-3"}


async def test_a_patch_without_a_version_is_done_each_time() -> None:
    sessions = await created()
    for seq in (2, 3):
        view = await sessions.patch(REF, ConfigPatch(lr=0.01), generation=None, version=None)
        assert (view.seq, view.replayed) == (seq, False)


async def test_a_new_schedule_starts_at_its_own_beginning() -> None:
    sessions = await created(steps=3)
    schedule: Any = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    patch = ConfigPatch.model_validate({"scheduler": schedule})
    view = await sessions.patch(REF, patch, generation=None, version=None)
    assert (view.clock, view.lr) == (0, [0.1])
    rates = [(await step(sessions, n)).receipt.lr for n in (4, 5, 6)]
    assert rates == [[0.1], [0.1], [0.05]]
    renamed = await sessions.patch(REF, ConfigPatch(name="x"), generation=None, version=None)
    assert renamed.clock == 3


async def test_a_rate_that_leaves_the_range_of_float64_is_refused_before_it_is_logged() -> None:
    sessions = await created(settings=EPOCHS.model_copy(update={"scheduler": None}), steps=1)
    patch = ConfigPatch.model_validate({"scheduler": GROWING})
    await sessions.patch(REF, patch, generation=None, version=None)
    await sessions.end_epoch(REF, 1, None, generation=None)
    before = await held(sessions)
    with pytest.raises(InvalidConfig):
        await sessions.end_epoch(REF, 2, None, generation=None)
    with pytest.raises(InvalidConfig):
        await sessions.patch(REF, ConfigPatch(lr=1e150), generation=None, version=None)
    assert await held(sessions) == before


async def test_a_session_is_deleted_once_and_its_id_never_given_again() -> None:
    sessions = await created(steps=1)
    with pytest.raises(PreconditionFailed):
        await sessions.delete(REF, version=(1, 1))
    answers = await asyncio.gather(*(sessions.delete(REF, version=None) for _ in range(4)))
    assert sorted(answers) == [False, True, True, True]
    assert await sessions.delete(REF, version=(1, 1))
    for attempt in (sessions.view(REF), step(sessions, 2), step(sessions, 1)):
        with pytest.raises(SessionNotFound):
            await attempt
    with pytest.raises(SessionDeleted):
        await sessions.create(REF, ADAM, PARAMS)
    with pytest.raises(SessionNotFound):
        await sessions.delete(("alice", "never"), version=None)
    with pytest.raises(SessionNotFound):
        await sessions.view(("bob", "s"))


async def test_a_step_and_a_delete_at_once_leave_no_session() -> None:
    sessions = await created()
    outcomes = await asyncio.gather(
        step(sessions, 1),
        sessions.delete(REF, version=None),
        step(sessions, 2),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Stepped)
    assert outcomes[1] is False
    assert isinstance(outcomes[2], SessionNotFound)


async def test_a_write_of_another_generation_is_refused() -> None:
    sessions = await created(settings=EPOCHS, steps=1)
    before = await held(sessions)
    writes = [
        step(sessions, 2, generation=2),
        step(sessions, 1, generation=2),
        sessions.end_epoch(REF, 1, None, generation=2),
        sessions.patch(REF, ConfigPatch(lr=1.0), generation=2, version=None),
        sessions.set_params(REF, PARAMS, generation=2),
    ]
    for write in writes:
        with pytest.raises(GenerationMismatch) as refusal:
            await write
        assert refusal.value.extra == {"generation": 1}
    assert await held(sessions) == before
    assert (await step(sessions, 2, generation=1)).receipt.generation == 1


async def test_sessions_that_nothing_was_written_to_expire() -> None:
    sessions = await created()
    assert await sessions.expire(3600) == 0
    assert await sessions.expire(-3600) == 1
    with pytest.raises(SessionNotFound):
        await sessions.view(REF)
    assert await sessions.expire(-3600) == 0


async def test_a_session_that_is_being_stepped_does_not_expire() -> None:
    sessions = await created()
    taken = asyncio.create_task(step(sessions, 1))
    await asyncio.sleep(0)
    assert await sessions.expire(-3600) == 0
    assert (await taken).receipt.applied
    assert await sessions.expire(-3600) == 1
    with pytest.raises(SessionNotFound):
        await step(sessions, 2)


async def test_a_state_whose_schedule_would_begin_behind_it_is_refused() -> None:
    sessions = opened(SlowStore())
    await sessions.create(REF, config({"type": "SGD"}, scheduler={"type": "LinearLR"}), None)
    file = StateFile(packed_all({"params/w": [1.0]}), step=0, epoch=50, origin=40)
    with pytest.raises(InvalidTensors) as refusal:
        await sessions.set_state(REF, file, generation=None)
    assert [fault.pointer for fault in refusal.value.faults] == ["/__metadata__/origin"]
    assert (await sessions.view(REF)).seq == 0
