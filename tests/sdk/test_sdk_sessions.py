"""Sessions through both clients and the real application."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from sdk_clients import ADAMW, gradients, weights

import gradstep


def test_steps_give_what_torch_gives(client: gradstep.Client) -> None:
    start = weights(np.float64)
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    optimizer = torch.optim.AdamW(theirs.values(), lr=0.1)
    session = client.sessions.create(optimizer=ADAMW, params=start)
    ours = {}
    for n in range(1, 6):
        grads = gradients(n, np.float64)
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(grads[name])
        optimizer.step()
        ours = session.step(grads)
    for name, tensor in theirs.items():
        assert ours[name].dtype == np.float64
        np.testing.assert_allclose(ours[name], tensor.detach().numpy(), rtol=1e-12)


def test_a_session_says_where_it_stands(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer="SGD", params=weights(), name="a run")
    assert (session.position, session.epoch, session.generation) == (0, 0, 1)
    assert session.last_receipt is None
    session.step(gradients(1), loss=0.5)
    receipt = session.last_receipt
    assert receipt is not None
    assert (receipt.step, receipt.position, receipt.replayed, receipt.applied) == (
        1,
        1,
        False,
        True,
    )
    assert (receipt.loss, receipt.lr, session.position) == (0.5, (0.001,), 1)
    norm = math.sqrt(sum(float((grad**2).sum()) for grad in gradients(1).values()))
    assert receipt.grad_norm == pytest.approx(norm, rel=1e-6)


def test_a_session_is_described_in_full(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW,
        params=weights(),
        scheduler={"type": "StepLR", "step_size": 2},
        schedule_on="step",
        param_groups=[{"match": ["b*"], "lr": 0.5}],
        freeze=["b"],
        clip={"type": "norm", "max_norm": 1.0},
        on_nonfinite="skip",
        name="a run",
    )
    info = session.info
    assert (info.id, info.name, info.step, info.seq) == (session.id, "a run", 0, 1)
    assert (info.dtype, info.schedule_on, info.on_nonfinite) == ("F32", "step", "skip")
    assert info.clip == {"type": "norm", "max_norm": 1.0}
    assert info.freeze == ("b",)
    assert info.scheduler is not None
    assert info.scheduler["type"] == "StepLR"
    assert info.param_groups == ({"match": ["b*"], "lr": 0.5},)
    assert [(group.tensors, group.optimizer["lr"]) for group in info.groups] == [
        (("w",), 0.1),
        (("b",), 0.5),
    ]
    assert info.lr == (0.1, 0.5)
    assert info.tensors["w"] == gradstep.TensorInfo("F32", (2, 2))
    assert info.created_at.tzinfo is not None
    assert info.updated_at >= info.created_at


@pytest.mark.parametrize(
    ("dtype", "name", "answered"),
    [
        (np.float64, "F64", np.float64),
        (np.float32, "F32", np.float32),
        (np.float16, "F16", np.float16),
        (ml_dtypes.bfloat16, "BF16", np.float32),
    ],
)
def test_the_dtype_is_that_of_the_parameters(
    client: gradstep.Client, dtype: Any, name: str, answered: Any
) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights(dtype))
    assert session.info.dtype == name
    stepped = session.step(gradients(1, dtype))
    assert {array.dtype for array in stepped.values()} == {np.dtype(answered)}
    for key, array in session.params().items():
        assert np.array_equal(array, stepped[key])


def test_torch_tensors_are_stepped_like_arrays(client: gradstep.Client) -> None:
    start = {name: torch.tensor(value).bfloat16() for name, value in weights().items()}
    grads = {name: torch.tensor(value).bfloat16() for name, value in gradients(1).items()}
    session = client.sessions.create(optimizer=ADAMW, params=start)
    twin = client.sessions.create(optimizer=ADAMW, params=weights(ml_dtypes.bfloat16))
    assert session.info.dtype == "BF16"
    expected = twin.step({name: grad.float().numpy() for name, grad in grads.items()})
    for name, array in session.step(grads).items():
        assert np.array_equal(array, expected[name])


def test_the_answer_can_be_written_to_and_given_to_torch(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    stepped = session.step(gradients(1))
    tensor = torch.from_numpy(stepped["w"])
    tensor.zero_()
    assert not stepped["w"].any()


def test_a_session_is_resumed_where_it_stands(client: gradstep.Client) -> None:
    first = client.sessions.create(optimizer=ADAMW, params=weights())
    first.step(gradients(1))
    second = client.sessions.resume(first.id)
    assert (second.position, second.generation) == (1, 1)
    second.step(gradients(2))
    assert second.position == 2


def test_creating_with_the_same_id_finds_the_session(client: gradstep.Client) -> None:
    first = client.sessions.create(optimizer=ADAMW, params=weights())
    first.step(gradients(1))
    again = client.sessions.create(optimizer=ADAMW, params=weights(), id=first.id)
    assert (again.id, again.position, again.info.replayed) == (first.id, 1, True)
    with pytest.raises(gradstep.SessionConflict):
        client.sessions.create(optimizer="SGD", params=weights(), id=first.id)
    with pytest.raises(gradstep.ParamsConflict):
        client.sessions.create(
            optimizer=ADAMW, params=weights() | {"b": np.zeros(2, np.float32)}, id=first.id
        )


def test_parameters_may_come_later(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, dtype="F64")
    assert session.params() == {}
    with pytest.raises(gradstep.ParamsMissing):
        session.step(gradients(1))
    info = session.set_params(weights())
    assert (info.dtype, set(info.tensors)) == ("F64", {"w", "b"})
    assert session.step(gradients(1))["w"].dtype == np.float64


def test_all_sessions_are_listed_page_by_page(client: gradstep.Client) -> None:
    made = {client.sessions.create(optimizer="SGD", name=f"listed {i}").id for i in range(5)}
    found = list(client.sessions.list(page_size=2))
    assert made <= {session.id for session in found}
    assert [session.id for session in found] == sorted(session.id for session in found)
    listed = next(session for session in found if session.id in made)
    assert (listed.optimizer, listed.step, (listed.name or "")[:6]) == ("SGD", 0, "listed")
    assert listed.updated_at >= listed.created_at


def test_a_step_may_leave_the_parameters_there(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    receipt = session.step_receipt(gradients(1), loss=0.25)
    assert receipt == session.last_receipt
    assert (receipt.step, receipt.loss, session.position) == (1, 0.25, 1)
    again = session.receipt(1)
    assert (again.step, again.replayed, again.loss) == (1, True, 0.25)
    with pytest.raises(gradstep.StepNotFound):
        session.receipt(2)


def test_a_rate_may_be_given_for_one_step(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW, params=weights(), param_groups=[{"match": ["b"]}]
    )
    assert session.step_receipt(gradients(1), lr=0.5).lr == (0.5, 0.5)
    assert session.step_receipt(gradients(2), lr=[0.25, 1e-17]).lr == (0.25, 1e-17)
    assert session.step_receipt(gradients(3)).lr == (0.1, 0.1)


def test_the_history_holds_every_step(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW,
        params=weights(),
        scheduler={"type": "ExponentialLR", "gamma": 0.5},
        param_groups=[{"match": ["b"], "lr": 1.0}],
        clip={"type": "norm", "max_norm": 1e9},
        on_nonfinite="skip",
    )
    assert session.history().step.size == 0
    session.step(gradients(1), loss=0.5)
    session.step(gradients(2) | {"b": np.array([np.nan, 0], np.float32)}, loss=math.nan)
    session.step(gradients(3), loss=np.float32(0.25))
    history = session.history()
    assert history.step.tolist() == [1, 2, 3]
    assert history.lr.tolist() == [[0.1, 0.05, 0.025], [1.0, 0.5, 0.25]]
    assert np.array_equal(history.loss, [0.5, math.nan, 0.25], equal_nan=True)
    assert np.isnan(history.grad_norm).tolist() == [False, True, False]
    assert history.applied.tolist() == [True, False, True]
    assert history.clipped.tolist() == [False, False, False]
    assert session.history(after=2).step.tolist() == [3]


def test_the_schedule_shows_the_rates_that_the_steps_use(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW, params=weights(), scheduler={"type": "CosineAnnealingLR", "T_max": 10}
    )
    preview = session.schedule(steps=4)
    used = [session.step_receipt(gradients(n)).lr[0] for n in range(1, 5)]
    assert preview.lr.shape == (1, 4)
    assert preview.lr[0].tolist() == used
    assert session.schedule(steps=10, start=2, stride=5).step.tolist() == [2, 7]
    assert session.schedule(max_points=4).step.size <= 4


def test_a_state_continues_elsewhere_bit_for_bit(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    for n in range(1, 4):
        session.step(gradients(n))
    session.step({"w": gradients(4)["w"]})
    state = session.state()
    assert (state.step, state.epoch) == (4, 0)
    assert state.counters == {"w": 4, "b": 3}
    assert state.config["optimizer"]["type"] == "AdamW"
    assert set(state.slot("exp_avg")) == {"w", "b"}
    assert np.array_equal(state.params["w"], session.params()["w"])
    other = client.sessions.create(optimizer=ADAMW)
    assert other.load_state(state).step == 4
    assert other.position == 4
    expected = session.step(gradients(5))
    for name, array in other.step(gradients(5)).items():
        assert array.tobytes() == expected[name].tobytes()
    with pytest.raises(gradstep.ParamsConflict):
        other.load_state(session.state())


def test_epochs_move_a_schedule_that_counts_them(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW,
        params=weights(),
        scheduler={"type": "ExponentialLR", "gamma": 0.5},
        schedule_on="epoch",
    )
    session.step(gradients(1))
    ended = session.end_epoch(metric=0.5)
    assert (ended.epoch, ended.step, ended.metric, ended.lr) == (1, 1, 0.5, (0.05,))
    assert session.end_epoch().epoch == 2
    assert session.epoch == 2
    with pytest.raises(gradstep.EpochsNotUsed):
        client.sessions.create(optimizer=ADAMW, params=weights()).end_epoch()


def test_a_patch_behind_an_epoch_crosses_no_other_writers(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW, params=weights(), scheduler="ConstantLR", schedule_on="epoch"
    )
    session.end_epoch()
    other = client.sessions.resume(session.id)
    other.patch(name="the other's")
    with pytest.raises(gradstep.PreconditionFailed):
        session.patch(name="mine")
    other.end_epoch()
    assert other.patch(name="still the other's").name == "still the other's"


def test_a_patch_changes_what_it_names_and_nothing_else(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW,
        params=weights(),
        scheduler="ConstantLR",
        clip={"type": "value", "value": 1.0},
        name="before",
    )
    session.step(gradients(1))
    info = session.patch(optimizer={"weight_decay": 0.5}, scheduler=None)
    assert (info.optimizer["weight_decay"], info.scheduler, info.name) == (0.5, None, "before")
    assert info.clip == {"type": "value", "value": 1.0}
    info = session.patch(lr=0.25, clip=None, on_nonfinite="skip", name=None, scheduler="ConstantLR")
    assert (info.lr, info.clip, info.on_nonfinite, info.name) == (
        (0.25 / 3,),
        None,
        "skip",
        None,
    )
    assert session.info == info
    assert session.step_receipt(gradients(2)).lr == (0.25 / 3,)
    assert session.patch(freeze=["w"]).freeze == ("w",)
    assert session.step_receipt(gradients(3)).frozen == 1
    assert session.patch(freeze=[]).freeze == ()


def test_a_deleted_session_is_gone(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    session.step(gradients(1))
    session.delete()
    with pytest.raises(gradstep.ApiError) as caught:
        client.sessions.resume(session.id)
    assert isinstance(caught.value, gradstep.SessionNotFound | gradstep.SessionDeleted)
    with pytest.raises(gradstep.SessionDeleted):
        client.sessions.create(optimizer=ADAMW, id=session.id)


def test_a_large_step_travels_in_blocks(client: gradstep.Client) -> None:
    random = np.random.default_rng(0)
    start = {f"layer.{i}": random.normal(size=150_001).astype(np.float32) for i in range(4)}
    grads = {name: random.normal(size=150_001).astype(np.float32) for name in start}
    session = client.sessions.create(optimizer={"type": "SGD", "lr": 0.5}, params=start)
    stepped = session.step(grads)
    for name, array in start.items():
        np.testing.assert_allclose(stepped[name], array - 0.5 * grads[name], rtol=1e-6, atol=1e-7)


def test_many_tensors_of_many_shapes_come_back_as_they_were(client: gradstep.Client) -> None:
    random = np.random.default_rng(0)
    shapes = [(), (0,), (1,), (3, 0, 2), (2, 3, 4), (7,)]
    start = {
        f"t{i}/ü.{shape}": random.normal(size=shape).astype(np.float16)
        for i, shape in enumerate(shapes)
    }
    session = client.sessions.create(optimizer="SGD", params=start)
    found = session.params()
    assert found.keys() == start.keys()
    for name, array in start.items():
        assert (found[name].shape, found[name].tobytes()) == (array.shape, array.tobytes())


def test_schedules_of_momentum_and_decay_are_sent_and_read(client: gradstep.Client) -> None:
    cycle = {"type": "OneCycleLR", "max_lr": 0.5, "total_steps": 10}
    halved = {"type": "StepLR", "step_size": 1, "gamma": 0.5}
    session = client.sessions.create(
        optimizer={"type": "SGD", "lr": 0.1, "weight_decay": 0.5},
        params=weights(),
        scheduler=cycle,
        weight_decay_scheduler=halved,
    )
    assert (session.info.momentum, session.info.weight_decay) == (0.95, (0.5,))
    session.step(gradients(1))
    receipt = session.last_receipt
    assert receipt is not None
    assert (receipt.momentum, receipt.weight_decay) == (0.95, (0.5,))
    session.patch(weight_decay_scheduler="ConstantLR")
    assert session.info.weight_decay_scheduler == {
        "type": "ConstantLR",
        "factor": 1 / 3,
        "total_iters": 5,
    }
    fork = session.fork(scheduler=None, weight_decay_scheduler=None)
    assert (fork.info.momentum, fork.info.weight_decay) == (None, None)


def test_a_schedule_follows_the_metrics_of_epochs(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer={"type": "SGD", "lr": 1.0},
        params=weights(),
        scheduler={"type": "ReduceLROnPlateau", "patience": 0},
        schedule_on="epoch",
    )
    assert [session.end_epoch(metric).lr for metric in (2.0, 3.0)] == [(1.0,), (0.1,)]
    with pytest.raises(gradstep.ApiError, match="send what was measured"):
        session.end_epoch()
