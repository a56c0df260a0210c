"""A schedule that follows the metrics of epochs: what it keeps is part of the session."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from session_runs import BUDGET, PARAMS, REF, SlowStore, created, held, live, opened, step
from session_states import COMPUTE, NOON, captured, config, restored, started

from gradstep_server.errors import InvalidRequest
from gradstep_server.schedulers import Followed
from gradstep_server.schedulers.reduce_lr_on_plateau import ReduceLROnPlateau
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch, ForkConfig, SessionConfig
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.receipts import EpochReceipt, View
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.tensors import Tensors
from gradstep_server.sessions.transfer import imported
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

PLATEAU = {"type": "ReduceLROnPlateau", "factor": 0.5, "patience": 1, "cooldown": 1}
METRICS = [3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 1.5, 1.6, 1.6, 1.6, 1.0, 1.1, 1.2, 1.3]


def plateau(**more: Any) -> SessionConfig:
    optimizer = {"type": "SGD", "lr": 0.8}
    return config(optimizer, scheduler={**PLATEAU, **more}, schedule_on="epoch")


async def ended(sessions: Sessions, e: int, metric: float | None = None) -> EpochReceipt:
    value = METRICS[e - 1] if metric is None else metric
    return await sessions.end_epoch(REF, e, value, generation=None)


async def trained(sessions: Sessions, first: int, last: int) -> None:
    """Take a step and end an epoch, again and again: step n is taken in epoch n."""
    for n in range(first, last + 1):
        await step(sessions, n)
        await ended(sessions, n)


def in_torch(params: dict[str, Any], metrics: list[float]) -> list[float]:
    """Return torch's rate before the first metric and after each."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    arguments = {key: value for key, value in params.items() if key != "type"}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments)
    rates = [optimizer.param_groups[0]["lr"]]
    for metric in metrics:
        scheduler.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


async def lr(sessions: Sessions) -> float:
    return (await sessions.view(REF)).lr[0]


@pytest.mark.parametrize("more", [{}, {"mode": "max"}, {"threshold_mode": "abs", "min_lr": 0.3}])
async def test_steps_use_the_rates_that_torch_has_after_each_epoch(more: dict[str, Any]) -> None:
    sessions = await created(settings=plateau(**more))
    rates = in_torch(PLATEAU | more, METRICS)
    for e, metric in enumerate(METRICS, 1):
        taken = (await step(sessions, e)).receipt
        assert (taken.lr, taken.next_lr) == ([rates[e - 1]], [rates[e - 1]])
        receipt = await ended(sessions, e)
        assert (receipt.metric, receipt.lr) == (metric, [rates[e]])
    assert rates[0] > rates[-1]


@pytest.mark.parametrize("cut", range(len(METRICS) + 1))
def test_what_is_followed_in_pieces_is_what_is_followed_at_once(cut: int) -> None:
    schedule = ReduceLROnPlateau(patience=1, cooldown=1)
    metrics = np.array([*METRICS, np.nan, np.nan])
    whole = schedule.follow(Followed(), metrics)
    begun = schedule.follow(Followed(), metrics[:cut])
    kept = Followed(**orjson.loads(orjson.dumps(asdict(begun))))
    assert schedule.follow(kept, metrics[cut:]) == whole
    assert whole.measured == len(metrics)


@pytest.mark.parametrize("policy", [SnapshotPolicy(steps=1), SnapshotPolicy(steps=1000)])
@pytest.mark.parametrize("last", [3, 4, 6, 9])
async def test_a_loaded_session_goes_on_with_what_was_measured(
    policy: SnapshotPolicy, last: int
) -> None:
    store = SlowStore()
    sessions = await created(store, plateau(), policy=policy)
    await trained(sessions, 1, last)
    await sessions.close()
    loaded = opened(store)
    assert await held(loaded) == await held(sessions)
    await trained(loaded, last + 1, len(METRICS))
    whole = await created(settings=plateau())
    await trained(whole, 1, len(METRICS))
    assert live(loaded).followed == live(whole).followed
    assert (await held(loaded))[1] == (await held(whole))[1]


def test_a_snapshot_holds_what_was_measured() -> None:
    state = started(plateau(), PARAMS)
    state.followed = Followed(measured=4, best=2.0, bad=1, cooling=1, falls=(2, 4))
    state.epoch = 4
    assert restored(*captured(state)).followed == state.followed


@pytest.mark.parametrize("last", [2, 5, 9])
async def test_a_rewind_forgets_what_was_measured_since(last: int) -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, last)
    was, epoch = live(sessions).followed, live(sessions).epoch
    await step(sessions, last + 1)  # right after it, nothing more was measured
    await ended(sessions, last + 1)
    await trained(sessions, last + 2, len(METRICS))
    view = await sessions.rewind(REF, last + 1, generation=None, version=None)
    assert (view.epoch, view.followed) == (epoch, was)
    await ended(sessions, last + 1)
    await trained(sessions, last + 2, len(METRICS))
    assert [await lr(sessions)] == in_torch(PLATEAU, METRICS)[-1:]


async def test_a_fork_goes_on_with_what_was_measured() -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 9)
    changes = ForkConfig.model_validate({"name": "f"})
    await sessions.fork(REF, "f", None, changes, generation=None)
    rates = in_torch(PLATEAU, METRICS)
    for e in range(10, len(METRICS) + 1):
        receipt = await sessions.end_epoch(("alice", "f"), e, METRICS[e - 1], generation=None)
        assert receipt.lr == [rates[e]]


async def test_a_new_schedule_forgets_what_was_measured_and_a_new_rate_does_not() -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 9)
    assert await lr(sessions) == 0.2
    assert (await patched(sessions, lr=0.4)).lr == [0.1]
    view = await patched(sessions, scheduler=PLATEAU)
    assert (view.lr, view.followed, view.clock) == ([0.4], Followed(), 0)
    assert (await ended(sessions, 10)).lr == [0.4]
    assert live(sessions).followed.measured == 1


async def patched(sessions: Sessions, **changes: Any) -> View:
    patch = ConfigPatch.model_validate(changes)
    return await sessions.patch(REF, patch, generation=None, version=None)


async def test_an_epoch_without_what_the_schedule_follows_is_refused() -> None:
    sessions = await created(settings=plateau())
    with pytest.raises(InvalidRequest, match="send what was measured") as refused:
        await sessions.end_epoch(REF, 1, None, generation=None)
    assert [fault.pointer for fault in refused.value.faults] == ["/metric"]
    assert live(sessions).epoch == 0


async def test_an_epoch_that_is_sent_again_is_measured_once() -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 4)
    before = await held(sessions)
    assert (await ended(sessions, 4)).replayed
    assert await held(sessions) == before


async def exported(sessions: Sessions) -> tuple[Tensors, dict[str, str]]:
    return await sessions.state(REF)


async def filled(settings: SessionConfig, tensors: Tensors, metadata: dict[str, str]) -> Sessions:
    sessions = Sessions(MemoryStore(), COMPUTE, BUDGET, clock=lambda: NOON)
    await sessions.create(REF, settings, None)
    await sessions.set_state(REF, imported(tensors, metadata), generation=None)
    return sessions


async def test_a_state_that_is_loaded_elsewhere_goes_on_with_what_was_measured() -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 9)
    moved = await filled(plateau(), *await exported(sessions))
    assert live(moved).followed == live(sessions).followed
    await ended(moved, 10)
    assert [await lr(moved)] == in_torch(PLATEAU, METRICS)[10:11]


async def test_a_state_that_does_not_say_what_was_measured_is_refused() -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 9)
    tensors, metadata = await exported(sessions)
    del metadata["followed"]
    with pytest.raises(InvalidTensors) as refused:
        await filled(plateau(), tensors, metadata)
    assert [fault.pointer for fault in refused.value.faults] == ["/__metadata__/followed"]
    plain = config({"type": "SGD", "lr": 0.8}, schedule_on="epoch")
    moved = await filled(plain, tensors, metadata)
    assert (await patched(moved, scheduler=PLATEAU)).lr == [0.8]


@pytest.mark.parametrize(
    "followed",
    [
        '{"measured":9,"falls":[10]}',
        '{"measured":9,"falls":[3,3]}',
        '{"measured":8}',
        '{"measured":9,"best":"low"}',
        '{"measured":9,"worst":1}',
    ],
)
async def test_a_state_whose_measurements_make_no_sense_is_refused(followed: str) -> None:
    sessions = await created(settings=plateau())
    await trained(sessions, 1, 9)
    tensors, metadata = await exported(sessions)
    with pytest.raises(InvalidTensors) as refused:
        await filled(plateau(), tensors, {**metadata, "followed": followed})
    assert refused.value.faults[0].pointer.startswith("/__metadata__/followed")
