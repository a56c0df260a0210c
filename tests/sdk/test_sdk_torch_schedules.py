"""Schedules that move to torch and back: every kind, at its turning points."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from anyio.from_thread import BlockingPortal
from sdk_clients import ADDRESS, Blocking
from torch.optim import lr_scheduler
from torch_moves import Mover, model_of, optimizer_of
from torch_schedules import build

import gradstep
from gradstep_server.schedulers import SCHEDULERS

BASE = 0.1
AHEAD = 25
"""Steps that torch goes on for."""

FOLLOWS = "ReduceLROnPlateau"
OF_TORCH = [
    {"type": kind, **example}
    for kind, cls in SCHEDULERS.items()
    if cls.torch_name and kind != FOLLOWS
    for example in cls.examples
]
AVERAGING = {"type": "SWALR", "swa_lr": 0.5, "anneal_epochs": 8}
RESTARTING = {"type": "CosineAnnealingWarmRestarts", "T_0": 3, "T_mult": 2}
CYCLING = {"type": "CyclicLR", "max_lr": 0.5, "step_size_up": 4, "cycle_momentum": False}
ONE_CYCLE = {"type": "OneCycleLR", "max_lr": 1, "total_steps": 60, "cycle_momentum": False}
CHAIN = {"type": "ChainedScheduler", "schedulers": [{"type": "ConstantLR"}, RESTARTING]}
LISTED = (
    [{"type": "LinearLR"}, RESTARTING, AVERAGING],
    [{"type": "ExponentialLR", "gamma": 0.9}, CYCLING, {"type": "PolynomialLR"}],
    [CHAIN, {"type": "StepLR", "step_size": 2}, ONE_CYCLE],
)
NESTED = [
    {"type": "SequentialLR", "milestones": [5, 12], "schedulers": schedulers}
    for schedulers in LISTED
]


@pytest.fixture
def mover(app: tuple[BlockingPortal, Any]) -> Mover:
    """The blocking client alone: what is different in schedules is not how they travel."""
    portal, transport = app
    return Mover(portal, gradstep.Client(ADDRESS, transport=Blocking(portal, transport)))


def session_at(mover: Mover, spec: dict[str, Any], t: int) -> gradstep.Session:
    """Return a session whose schedule stands at t, as if it had taken so many steps."""
    options: dict[str, Any] = {
        "optimizer": {"type": "SGD", "lr": BASE, "momentum": 0.5},
        "scheduler": spec,
        "param_groups": [{"match": ["b"], "lr": BASE / 4}],
    }
    start = {"w": np.ones(2), "b": np.ones(1)}
    state = mover.client.sessions.create(params=start, **options).state()
    session = mover.client.sessions.create(dtype="F64", **options)
    session.load_state(
        gradstep.State(state.tensors, {**state.metadata, "step": str(t), "origin": "0"})
    )
    return session


def loaded(
    mover: Mover, session: gradstep.Session, spec: dict[str, Any]
) -> tuple[Any, torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """Return torch's model, optimizer and scheduler, built anew and loaded."""
    model = model_of(session.params())
    optimizer = optimizer_of("SGD", model, "b", lr=BASE, momentum=0.5)
    optimizer.param_groups[1]["lr"] = BASE / 4
    # torch warns of a scheduler that steps before its optimizer ever did.
    vars(optimizer)["_opt_called"] = True
    moved = mover.to_torch(session, model)
    scheduler = build(spec, optimizer)
    optimizer.load_state_dict(moved.optimizer)
    assert moved.scheduler is not None
    scheduler.load_state_dict(moved.scheduler)
    return model, optimizer, scheduler


@pytest.mark.parametrize("t", [0, 1, 12])
@pytest.mark.parametrize(
    "spec",
    OF_TORCH + NESTED,
    ids=[f"{i}-{spec['type']}" for i, spec in enumerate(OF_TORCH + NESTED)],
)
def test_torch_goes_on_with_the_sessions_schedule_and_the_session_with_torchs(
    mover: Mover, spec: dict[str, Any], t: int
) -> None:
    session = session_at(mover, spec, t)
    model, optimizer, scheduler = loaded(mover, session, spec)
    back = mover.from_torch(optimizer, model, scheduler=scheduler, schedule_on="step", step=t)
    expected = session.schedule(start=t, steps=AHEAD)
    again = back.session.schedule(start=t, steps=AHEAD)
    np.testing.assert_allclose(again.lr, expected.lr, rtol=1e-9, atol=1e-12 * BASE)
    last = getattr(scheduler, "total_steps", t + AHEAD) - 1
    for i in range(min(AHEAD, last - t + 1)):
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        assert rates == pytest.approx(expected.lr[:, i], rel=1e-9, abs=1e-12 * BASE)
        if expected.momentum is not None and not np.isnan(expected.momentum[i]):
            assert groups[0]["momentum"] == pytest.approx(expected.momentum[i], rel=1e-9)
        if t + i < last:
            scheduler.step()


@pytest.mark.parametrize("metrics", [1, 4, 9])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_schedule_that_follows_a_metric_goes_on_in_torch_and_back(
    mover: Mover, mode: str, metrics: int
) -> None:
    spec = {"type": FOLLOWS, "mode": mode, "patience": 1, "factor": 0.5, "cooldown": 1}
    start = {"w": np.ones(2)}
    session = mover.client.sessions.create(
        optimizer={"type": "SGD", "lr": BASE}, scheduler=spec, schedule_on="epoch", params=start
    )
    for epoch in range(metrics):
        session.end_epoch(3.0 + epoch % 3)
    model = model_of(session.params())
    optimizer = optimizer_of("SGD", model)
    scheduler: Any = build(spec, optimizer)
    moved = mover.to_torch(session, model)
    optimizer.load_state_dict(moved.optimizer)
    assert moved.scheduler is not None
    scheduler.load_state_dict(moved.scheduler)
    back = mover.from_torch(optimizer, model, scheduler=scheduler).session
    assert (back.epoch, back.info.lr) == (metrics, session.refresh().lr)
    for epoch in range(12):
        metric = 3.0 + epoch % 4
        scheduler.step(metric)
        for ours in (session, back):
            assert ours.end_epoch(metric).lr == pytest.approx((optimizer.param_groups[0]["lr"],))


def test_milestones_keep_their_integers(mover: Mover) -> None:
    session = session_at(mover, {"type": "MultiStepLR", "milestones": [5, 5, 9]}, 3)
    scheduler = mover.to_torch(session, model_of(session.params())).scheduler
    assert scheduler is not None
    assert scheduler["milestones"] == {5: 2, 9: 1}
    assert (scheduler["last_epoch"], scheduler["_step_count"]) == (3, 4)


def test_a_schedule_that_began_late_keeps_its_own_t(mover: Mover) -> None:
    start = {"w": np.ones(2)}
    session = mover.client.sessions.create(optimizer={"type": "Adam", "lr": BASE}, params=start)
    for _ in range(3):
        session.step(start)
    session.patch(scheduler={"type": "StepLR", "step_size": 2, "gamma": 0.1})
    session.step(start)
    session.step(start)
    model = model_of(session.params())
    optimizer = optimizer_of("Adam", model)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    moved = mover.to_torch(session, model)
    assert moved.scheduler is not None
    assert moved.scheduler["last_epoch"] == 2
    optimizer.load_state_dict(moved.optimizer)
    scheduler.load_state_dict(moved.scheduler)
    back = mover.from_torch(optimizer, model, scheduler=scheduler, schedule_on="step").session
    assert (back.position, back.state().metadata["origin"]) == (5, "3")
    assert back.info.lr == pytest.approx((BASE * 0.1,))


def test_a_schedule_that_is_code_in_torch_goes_as_a_session_has_it(mover: Mover) -> None:
    model = model_of({"w": np.ones(2)})
    optimizer = optimizer_of("SGD", model, lr=BASE)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    optimizer.step()
    for _ in range(4):
        scheduler.step()
    spec = {"type": "ExpressionLR", "expression": "base_lr / (1 + t)"}
    options: dict[str, Any] = {"last_epoch": 4, "schedule_on": "step"}
    session = mover.from_torch(optimizer, model, scheduler=spec, **options).session
    assert session.schedule(start=4, steps=2).lr[0] == pytest.approx([BASE / 5, BASE / 6])
    with pytest.raises(ValueError, match="someone set the rate by hand, or this is another"):
        mover.from_torch(optimizer, model, scheduler=spec, **{**options, "last_epoch": 5})


def test_without_its_schedule_a_state_keeps_the_present_rate_and_decay(mover: Mover) -> None:
    start = {"w": np.ones(2)}
    halved = {"type": "ExpressionLR", "expression": "base_lr / 2"}
    session = mover.client.sessions.create(
        optimizer={"type": "SGD", "lr": BASE, "weight_decay": 0.5},
        scheduler=halved,
        weight_decay_scheduler=halved,
        params=start,
    )
    moved = mover.to_torch(session, model_of(start), with_scheduler=False)
    [group] = moved.optimizer["param_groups"]
    assert (group["lr"], group["weight_decay"], moved.scheduler) == (BASE / 2, 0.25, None)
    assert "initial_lr" not in group
    assert "ExpressionLR was left behind" in moved.notes[0]


def test_the_state_says_what_the_next_step_will_use(mover: Mover) -> None:
    session = session_at(mover, {"type": "OneCycleLR", "max_lr": 1, "total_steps": 60}, 7)
    metadata, info = session.state().metadata, session.refresh()
    told = {key: json.loads(metadata[key]) for key in ("lr", "momentum", "weight_decay")}
    assert (tuple(told["lr"]), told["momentum"]) == (info.lr, info.momentum)
    assert told["weight_decay"] is None
