"""Going back, forking and looking at the past, through both clients and the real application."""

from __future__ import annotations

from typing import Any

import pytest
from sdk_clients import ADAMW, gradients, weights

import gradstep


def trained(client: gradstep.Client, *seeds: int, **options: Any) -> gradstep.Session:
    session = client.sessions.create(optimizer=ADAMW, params=weights(), **options)
    for seed in seeds:
        session.step(gradients(seed))
    return session


def same(a: gradstep.Params, b: gradstep.Params) -> bool:
    return {name: array.tobytes() for name, array in a.items()} == {
        name: array.tobytes() for name, array in b.items()
    }


def test_a_rewound_session_goes_on_from_there(client: gradstep.Client) -> None:
    session = trained(client, 1, 2, 3, 4, scheduler={"type": "ExponentialLR", "gamma": 0.5})
    info = session.rewind(2)
    assert (info.step, info.generation, info.replayed, info.lr) == (2, 2, False, (0.025,))
    assert (session.position, session.generation, session.info) == (2, 2, info)
    stepped = session.step(gradients(13))
    straight = trained(client, 1, 2, 13, scheduler={"type": "ExponentialLR", "gamma": 0.5})
    assert same(stepped, straight.params())
    assert session.last_receipt is not None
    assert (session.last_receipt.step, session.last_receipt.generation) == (3, 2)
    assert session.history().step.tolist() == [1, 2, 3]
    assert session.patch(lr=0.5).seq == session.info.seq


def test_a_rewind_brings_back_epochs_and_hyperparameters(client: gradstep.Client) -> None:
    session = trained(client, 1, schedule_on="epoch")
    session.end_epoch()
    session.step(gradients(2))
    session.patch(lr=7.0)
    session.end_epoch()
    info = session.rewind(2)
    assert (session.epoch, info.lr) == (1, (0.1,))
    assert session.end_epoch(0.5).epoch == 2
    assert session.rewind(0).step == 0


def test_another_writer_learns_of_a_rewind_before_it_steps(client: gradstep.Client) -> None:
    session = trained(client, 1, 2)
    other = client.sessions.resume(session.id)
    session.rewind(1)
    for attempt in (
        lambda: other.step(gradients(3)),
        lambda: other.patch(lr=1.0),
        lambda: other.rewind(0),
        other.fork,
    ):
        with pytest.raises(gradstep.GenerationMismatch) as caught:
            attempt()
        assert caught.value.generation == 2
    assert other.refresh().step == 1
    other.step(gradients(12))
    assert (other.position, other.generation) == (2, 2)


def test_a_rewind_that_crosses_anothers_change_is_refused(client: gradstep.Client) -> None:
    session = trained(client, 1, 2)
    client.sessions.resume(session.id).patch(name="the other's")
    with pytest.raises(gradstep.PreconditionFailed):
        session.rewind(1)
    session.refresh()
    assert session.rewind(1).step == 1


def test_the_past_is_read_without_moving_the_session(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    answers = [weights(), *(session.step(gradients(n)) for n in range(1, 5))]
    states = [session.state(step) for step in range(5)]
    for step, answered in enumerate(answers):
        assert same(session.params(step), answered)
        assert same(states[step].params, answered)
        assert states[step].step == step
    assert same(states[4].tensors, session.state().tensors)
    assert (session.position, session.generation) == (4, 1)
    session.step(gradients(5))
    assert session.position == 5


def test_a_past_state_continues_elsewhere(client: gradstep.Client) -> None:
    session = trained(client, 1, 2, 3)
    copy = client.sessions.create(optimizer=ADAMW)
    copy.load_state(session.state(2))
    assert same(copy.step(gradients(3)), session.params())


def test_steps_that_are_accumulated_say_so(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW, params=weights(), accumulate={"steps": 2, "mode": "sum"}
    )
    assert session.info.accumulate == {"steps": 2, "mode": "sum"}
    receipt = session.step_receipt(gradients(1))
    assert (receipt.applied, receipt.accumulated, session.position) == (False, 1, 1)
    assert session.refresh().accumulated == 1
    copy = client.sessions.create(optimizer=ADAMW, accumulate={"steps": 2, "mode": "sum"})
    copy.load_state(session.state())
    assert same(copy.state().slot("grad_sum"), gradients(1))
    assert same(session.step(gradients(2)), copy.step(gradients(2)))
    assert session.patch(accumulate=None).accumulate is None
    assert session.step_receipt(gradients(3)).accumulated is None


def test_a_fork_goes_its_own_way(client: gradstep.Client) -> None:
    session = trained(client, 1, 2, 3, name="first")
    fork = session.fork(
        2,
        lr=0.25,
        optimizer={"weight_decay": 0.5},
        scheduler="ConstantLR",
        freeze=["w"],
        clip={"type": "norm", "max_norm": 1.0},
        on_nonfinite="skip",
        durability="relaxed",
        retain=9,
        name=None,
    )
    info = fork.info
    assert (fork.position, fork.generation, fork.id != session.id) == (2, 1, True)
    assert info.forked_from == gradstep.ForkedFrom(session.id, 2, 1)
    assert (info.optimizer["lr"], info.optimizer["weight_decay"]) == (0.25, 0.5)
    assert info.scheduler is not None
    assert info.clip == {"type": "norm", "max_norm": 1.0}
    assert info.freeze == ("w",)
    assert (info.on_nonfinite, info.durability, info.retain, info.name) == (
        "skip",
        "relaxed",
        9,
        None,
    )
    assert same(fork.params(), session.params(2))
    fork.step(gradients(3))
    assert not same(fork.params(), session.params())
    assert (session.position, session.info.name, session.info.forked_from) == (3, "first", None)


def test_a_fork_without_changes_is_the_same_session_again(client: gradstep.Client) -> None:
    session = trained(client, 1, 2)
    session.patch(lr=0.5)
    fork = session.fork()
    assert fork.info.lr == (0.5,)
    assert same(fork.step(gradients(3)), session.step(gradients(3)))
    again = fork.fork(3)
    assert again.info.forked_from == gradstep.ForkedFrom(fork.id, 3, 1)
    assert same(again.params(), session.params())


def test_a_fork_with_an_id_may_be_made_again(client: gradstep.Client) -> None:
    session = trained(client, 1, 2)
    name = f"fork-of-{session.id}"
    fork = session.fork(1, id=name, lr=0.5)
    fork.step(gradients(2))
    again = session.fork(1, id=name, lr=0.5)
    assert (again.id, again.position, again.info.replayed) == (name, 2, True)
    for step, rate, taken in ((2, 0.5, name), (1, 0.25, name), (None, 0.5, session.id)):
        with pytest.raises(gradstep.SessionConflict):
            session.fork(step, lr=rate, id=taken)


def test_what_is_not_there_is_told_apart_from_what_is_gone(client: gradstep.Client) -> None:
    fork = trained(client, 1, 2, 3).fork(2)
    assert fork.info.oldest_step == 2
    for reach in (fork.rewind, fork.fork, fork.params, fork.state):
        with pytest.raises(gradstep.StepNotFound):
            reach(3)
        with pytest.raises(gradstep.StepGone) as gone:
            reach(1)
        assert (gone.value.status, gone.value.oldest_step) == (410, 2)
    assert (fork.position, fork.generation) == (2, 1)


def test_what_is_kept_and_when_is_chosen_and_told(client: gradstep.Client) -> None:
    session = client.sessions.create(
        optimizer=ADAMW, params=weights(), durability="relaxed", retain="all"
    )
    assert (session.info.durability, session.info.retain) == ("relaxed", "all")
    assert (session.info.oldest_step, session.info.forked_from) == (0, None)
    receipt = session.step_receipt(gradients(1))
    assert 0 <= receipt.durable_step <= 1
    assert session.patch(retain=5).retain == 5
    assert session.info.durable_step <= session.info.step == 1
    default = client.sessions.create(optimizer=ADAMW)
    assert (default.info.durability, default.info.retain) == ("step", "none")


def test_what_cannot_be_meant_is_not_sent(client: gradstep.Client) -> None:
    session = trained(client, 1)
    with pytest.raises(TypeError, match="float"):
        session.rewind(0.5)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError, match="str"):
        session.fork("0")  # type: ignore[arg-type]  # likewise
    with pytest.raises(ValueError, match="is no session id"):
        session.fork(id="a/b")
    assert session.refresh().seq == 2
