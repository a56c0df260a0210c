"""What the server refuses, as both clients tell it."""

from __future__ import annotations

import numpy as np
import pytest
from sdk_clients import ADAMW, gradients, weights

import gradstep


def test_a_patch_that_crosses_anothers_is_refused(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    client.sessions.resume(session.id).patch(lr=0.5)
    with pytest.raises(gradstep.PreconditionFailed):
        session.patch(lr=0.25)
    session.refresh()
    assert session.patch(lr=0.25).lr == (0.25,)


def test_a_second_writer_is_told_the_next_position(client: gradstep.Client) -> None:
    first = client.sessions.create(optimizer=ADAMW, params=weights())
    second = client.sessions.resume(first.id)
    first.step(gradients(1))
    with pytest.raises(gradstep.StepConflict) as conflict:
        second.step(gradients(2))
    assert (conflict.value.expected, second.position) == (2, 0)
    second.refresh()
    second.step(gradients(2))
    assert second.position == 2


def test_a_step_that_is_not_next_is_told_the_next_position(client: gradstep.Client) -> None:
    stepped = client.sessions.create(optimizer=ADAMW, params=weights())
    for n in range(1, 4):
        stepped.step(gradients(n))
    first = client.sessions.create(optimizer=ADAMW)
    second = client.sessions.resume(first.id)
    first.load_state(stepped.state())
    with pytest.raises(gradstep.PositionMismatch) as mismatch:
        second.step(gradients(1))
    assert mismatch.value.expected == 4


def test_errors_name_the_tensor_and_the_request(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    with pytest.raises(gradstep.InvalidTensors) as caught:
        session.step({"unknown": np.zeros(1, np.float32)})
    assert caught.value.status == 422
    assert caught.value.code == "invalid-tensors"
    assert "unknown" in (caught.value.pointer or "")
    assert caught.value.errors[0].pointer == caught.value.pointer
    assert len(caught.value.request_id or "") == 32
    with pytest.raises(gradstep.NonFiniteGradient) as nonfinite:
        session.step({"b": np.array([np.inf, 0], np.float32)})
    assert "b" in (nonfinite.value.pointer or "")
    with pytest.raises(gradstep.InvalidTensors):
        session.step({"b": np.zeros(2)})
    assert session.position == 0


def test_what_is_wrong_with_a_configuration_is_named(client: gradstep.Client) -> None:
    with pytest.raises(gradstep.InvalidRequest) as caught:
        client.sessions.create(optimizer={"type": "AdamW", "lr": -1})
    assert caught.value.pointer == "/optimizer/lr"
    with pytest.raises(gradstep.InvalidRequest) as caught:
        client.sessions.create(optimizer="AdamX")
    assert "AdamX" in caught.value.detail
    with pytest.raises(gradstep.InvalidConfig):
        client.sessions.create(
            optimizer="SGD", params=weights(), param_groups=[{"match": ["none.*"]}]
        )


def test_what_cannot_be_sent_makes_no_session(client: gradstep.Client) -> None:
    with pytest.raises(TypeError, match="'w': expected a NumPy array"):
        client.sessions.create(optimizer="SGD", params={"w": [1.0]}, id="unsent")  # type: ignore[dict-item]  # that is the test
    with pytest.raises(ValueError, match="several dtypes"):
        client.sessions.create(
            optimizer="SGD", params={"a": np.zeros(1), "b": np.zeros(1, np.float32)}, id="unsent"
        )
    with pytest.raises(gradstep.SessionNotFound):
        client.sessions.resume("unsent")


@pytest.mark.parametrize("text", ["", "..", "a/b", "a?b", "x" * 65, "é"])
def test_what_can_be_no_id_is_not_sent(client: gradstep.Client, text: str) -> None:
    with pytest.raises(ValueError, match="is no session id"):
        client.sessions.resume(text)
