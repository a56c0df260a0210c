"""What cannot move between torch and gradstep is refused before anything is created."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from anyio.from_thread import BlockingPortal
from torch.optim import lr_scheduler
from torch_moves import Mover, model_of, optimizer_of, step

import gradstep
from gradstep.torch._to_torch import to_torch

START = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
WARM = {"type": "LinearLR"}
CYCLE = {"type": "CyclicLR", "max_lr": 0.5, "cycle_momentum": False}
ONE_CYCLE = {"type": "OneCycleLR", "max_lr": 0.5, "total_steps": 50}


@pytest.fixture
def mover(app: tuple[BlockingPortal, Any], client: gradstep.Client) -> Mover:
    return Mover(app[0], client)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            {"scheduler": {"type": "HFConstantWithWarmup", "num_warmup_steps": 9}},
            "no scheduler HFConstantWithWarmup",
        ),
        ({"scheduler": {"type": "PiecewiseLR", "points": [[0, 1]]}}, "no scheduler PiecewiseLR"),
        ({"weight_decay_scheduler": WARM}, "no schedule of the weight decay"),
        (
            {
                "scheduler": {"type": "ReduceLROnPlateau", "threshold_mode": "rel_abs"},
                "schedule_on": "epoch",
            },
            "no threshold_mode 'rel_abs'",
        ),
        (
            {"scheduler": {"type": "ChainedScheduler", "schedulers": [CYCLE, CYCLE]}},
            "share one place",
        ),
        (
            {"scheduler": {"type": "ChainedScheduler", "schedulers": [WARM, ONE_CYCLE]}},
            "leaves them its momentum",
        ),
        (
            {
                "scheduler": {
                    "type": "SequentialLR",
                    "schedulers": [WARM, {"type": "ChainedScheduler", "schedulers": [WARM]}],
                    "milestones": [5],
                }
            },
            "cannot hand over to a ChainedScheduler",
        ),
        (
            {"optimizer": {"type": "SGD", "momentum": 0.9, "momentum_style": "classical"}},
            "momentum_style 'classical' is not known to torch",
        ),
    ],
)
def test_what_torch_cannot_do_is_not_sent_there(
    mover: Mover, config: dict[str, Any], why: str
) -> None:
    options = {"optimizer": {"type": "SGD", "momentum": 0.9}, **config}
    session = mover.client.sessions.create(params=START, **options)
    with pytest.raises(ValueError, match=why):
        mover.to_torch(session, model_of(START))
    if "momentum_style" not in options["optimizer"]:
        assert mover.to_torch(session, model_of(START), with_scheduler=False).scheduler is None


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"w": START["w"]}, "the model has no parameter 'b'"),
        ({**START, "c": START["b"]}, "the session has no parameter 'c'"),
        ({**START, "b": START["w"]}, r"'b' has shape \(2, 3\), and \(3,\) in the session"),
        ({**START, "b": START["b"].astype(np.float64)}, "'b' is float64, and float32"),
    ],
)
def test_a_model_that_is_not_the_sessions_is_refused(
    mover: Mover, model: dict[str, Any], why: str
) -> None:
    session = mover.client.sessions.create(optimizer="SGD", params=START)
    with pytest.raises(ValueError, match=why):
        mover.to_torch(session, model_of(model))


def test_frozen_parameters_of_a_model_stay_out(mover: Mover) -> None:
    session = mover.client.sessions.create(optimizer="SGD", params=START)
    model = [*model_of(START), ("c", torch.zeros(2))]
    [group] = mover.to_torch(session, model).optimizer["param_groups"]
    assert group["params"] == [0, 1]


def test_an_optimizer_that_is_not_the_sessions_is_refused(mover: Mover) -> None:
    groups = [{"match": ["b"], "lr": 0.5}]
    session = mover.client.sessions.create(optimizer="SGD", params=START, param_groups=groups)
    model = model_of(START)
    stranger = [("x", torch.nn.Parameter(torch.ones(1)))]
    for optimizer, why in (
        (optimizer_of("Adam", model), "the session's optimizer is SGD, not Adam"),
        (optimizer_of("SGD", model), r"joins the groups \[0, 1\]"),
        (optimizer_of("SGD", model[:1]), "does not have 'b'"),
        (optimizer_of("SGD", stranger), "one that the model has not"),
    ):
        with pytest.raises(ValueError, match=why):
            mover.to_torch(session, model, optimizer=optimizer)


def test_a_state_of_a_server_that_does_not_tell_the_rates_is_refused(mover: Mover) -> None:
    state = mover.client.sessions.create(optimizer="SGD", params=START).state()

    del state.metadata["lr"]
    with pytest.raises(ValueError, match="from a server older than this"):
        to_torch(state, model_of(START), None, with_scheduler=True)


def trained(kind: str = "Adam", **options: Any) -> tuple[torch.optim.Optimizer, Any]:
    model = model_of(START)
    optimizer = optimizer_of(kind, model, **options)
    step(optimizer, model, START)
    return optimizer, model


def test_a_hyperparameter_that_two_tell_differently_is_refused_unless_one_is_preferred(
    mover: Mover,
) -> None:
    optimizer, model = trained("AdamW", lr=0.1)
    said = {"lr": 0.2, "weight_decay": 0.01, "betas": (0.9, 0.999)}
    before = len(list(mover.client.sessions.list()))
    with pytest.raises(ValueError, match=r"lr of group 0: 0\.1 in torch, not 0\.2\. Say which"):
        mover.from_torch(optimizer, model, hyperparameters=said)
    assert len(list(mover.client.sessions.list())) == before
    for prefer, lr in (("state_dict", 0.1), ("caller", 0.2)):
        moved = mover.from_torch(optimizer, model, hyperparameters=said, prefer=prefer)
        assert moved.hyperparameters[0]["lr"] == (lr, prefer)
        assert moved.hyperparameters[0]["betas"] == ([0.9, 0.999], "state_dict")


def change_rate(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] *= 3


def narrow_count(optimizer: torch.optim.Optimizer) -> None:
    for entry in optimizer.state.values():
        entry["step"] = torch.tensor(2.0**24)


def half_count(optimizer: torch.optim.Optimizer) -> None:
    for entry in optimizer.state.values():
        entry["step"] = torch.tensor(0.5)


def swap(optimizer: torch.optim.Optimizer) -> None:
    first, second = optimizer.state.values()
    first["exp_avg"], second["exp_avg"] = second["exp_avg"], first["exp_avg"]


def couple(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["decoupled_weight_decay"] = False


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (narrow_count, "16777216 in torch.float32, where torch's counter stops"),
        (half_count, "which is no count"),
        (swap, "goes by position, and this is another's"),
        (couple, "decoupled_weight_decay is False in torch's AdamW, and True in gradstep's"),
    ],
)
def test_a_state_that_is_not_what_it_says_is_refused(
    mover: Mover, change: Callable[[torch.optim.Optimizer], None], why: str
) -> None:
    optimizer, model = trained("AdamW")
    change(optimizer)
    with pytest.raises(ValueError, match=why):
        mover.from_torch(optimizer, model)


def test_a_rate_that_was_set_by_hand_is_refused(mover: Mover) -> None:
    optimizer, model = trained()
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    change_rate(optimizer)
    with pytest.raises(ValueError, match="someone set the rate by hand"):
        mover.from_torch(optimizer, model, scheduler=scheduler, schedule_on="epoch")


def test_what_moves_the_schedule_is_asked_where_nothing_tells_it(mover: Mover) -> None:
    optimizer, model = trained()
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ValueError, match="stepped 3 times and the optimizer 2 times: say what"):
        mover.from_torch(optimizer, model, scheduler=scheduler)
    moved = mover.from_torch(optimizer, model, scheduler=scheduler, schedule_on="epoch")
    assert (moved.session.position, moved.session.epoch) == (2, 3)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda o: lr_scheduler.LambdaLR(o, abs), "LambdaLR is code"),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, scale_fn=abs), "a scale_fn, which is code"),
        (lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.2], total_steps=9), "max_lr has a value per"),
    ],
)
def test_a_scheduler_that_no_session_has_is_refused(
    mover: Mover, make: Callable[[torch.optim.Optimizer], Any], why: str
) -> None:
    model = model_of(START)
    optimizer = optimizer_of("SGD", model, "b", momentum=0.9)
    with pytest.raises(ValueError, match=why):
        mover.from_torch(optimizer, model, scheduler=make(optimizer))


def test_a_description_of_a_schedule_has_to_say_where_it_stands(mover: Mover) -> None:
    optimizer, model = trained()
    scheduler = lr_scheduler.StepLR(optimizer, 3)
    for given, last_epoch, why in (
        ({"type": "StepLR", "step_size": 3}, None, "give last_epoch"),
        ({"type": "ReduceLROnPlateau"}, 0, "is in the scheduler: give that"),
        (scheduler, 0, "last_epoch is the scheduler's own"),
    ):
        with pytest.raises(ValueError, match=why):
            mover.from_torch(optimizer, model, scheduler=given, last_epoch=last_epoch)


def test_a_scheduler_that_missed_a_restart_is_refused(mover: Mover) -> None:
    """S18 and S20: torch's warm restarts are wrong where they were resumed (T_mult 2)."""
    optimizer, model = trained()
    optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 10, 2, last_epoch=34)
    with pytest.raises(
        ValueError, match=r"does not stand where stepping from 0 leads: .*T_i is 20"
    ):
        mover.from_torch(optimizer, model, scheduler=scheduler, schedule_on="epoch")


def test_a_state_dict_alone_must_be_told_apart(mover: Mover) -> None:
    optimizer, model = trained()
    state = optimizer.state_dict()
    two = optimizer_of("Adam", model, "b").state_dict()
    text = {**state, "state": {str(i): entry for i, entry in state["state"].items()}}
    for given, options, why in (
        (state, {}, "does not say whose it is"),
        (state, {"kind": "NoSuch"}, "the server has no optimizer NoSuch"),
        (two, {"kind": "Adam"}, "several groups knows positions only"),
        (text, {"kind": "Adam"}, "which JSON turns into text"),
        (optimizer, {"kind": "SGD"}, "the optimizer is Adam, not SGD"),
    ):
        with pytest.raises(ValueError, match=why):
            mover.from_torch(given, model, **options)
    with pytest.raises(ValueError, match="of 2 parameters, and the model has 1"):
        mover.from_torch(state, model[:1], kind="Adam")


def test_parameters_that_the_model_has_not_are_refused(mover: Mover) -> None:
    optimizer, model = trained()
    with pytest.raises(ValueError, match=r"a parameter of shape \(3,\) that the model has not"):
        mover.from_torch(optimizer, model[:1])


def test_a_step_before_what_was_taken_is_refused(mover: Mover) -> None:
    optimizer, model = trained()
    with pytest.raises(ValueError, match="step 0 is before what was taken: 1"):
        mover.from_torch(optimizer, model, step=0)


def test_parameters_of_several_dtypes_are_refused(mover: Mover) -> None:
    model = model_of({**START, "b": START["b"].astype(np.float64)})
    with pytest.raises(ValueError, match="the parameters are float32, float64"):
        mover.from_torch(optimizer_of("SGD", model), model)
