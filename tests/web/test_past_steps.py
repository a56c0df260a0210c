"""Parameters and states as they were right after step k."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from session_app import ADAMW, AS_JSON, SAFETENSORS, Service, file, gradients, read_file, running

SHAPES = {"w": (3, 2), "b": (2,)}
LAST = 6


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _trained(service: Service, **config: Any) -> tuple[str, list[bytes], list[bytes]]:
    """Return a session of `LAST` steps, what each answered, and the state right after it."""
    path = service.session("a", **{"optimizer": ADAMW, **config})
    start = file(gradients(0, **SHAPES))
    service.put(f"{path}/params", content=start, headers=SAFETENSORS)
    answers = [service.get(f"{path}/params").content]
    states = [service.get(f"{path}/state").content]
    for n in range(1, LAST + 1):
        answers.append(service.step(path, n, gradients(n, **SHAPES)).content)
        states.append(service.get(f"{path}/state").content)
    return path, answers, states


def _tensors(content: bytes) -> dict[str, tuple[str, bytes]]:
    return {
        name: (array.dtype.name, array.tobytes()) for name, array in read_file(content)[0].items()
    }


@pytest.mark.parametrize(
    "config",
    [
        {"scheduler": {"type": "ExponentialLR", "gamma": 0.5}},
        {"dtype": "BF16", "clip": {"type": "norm", "max_norm": 1.0}},
        {"dtype": "F64", "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
    ],
    ids=str,
)
def test_past_parameters_are_what_the_step_answered_bit_for_bit(
    service: Service, config: dict[str, Any]
) -> None:
    path, answers, _ = _trained(service, **config)
    for k in (*range(LAST, -1, -1), 3):
        past = service.get(f"{path}/params", params={"step": k})
        assert past.status_code == 200
        assert _tensors(past.content) == _tensors(answers[k])
        assert past.headers["Gradstep-Step"] == str(k)
        assert read_file(past.content)[1]["step"] == str(k)


def test_a_past_state_is_the_file_that_it_was(service: Service) -> None:
    path, _, states = _trained(service, scheduler={"type": "StepLR", "step_size": 2})
    for k, state in enumerate(states):
        assert service.get(f"{path}/state", params={"step": k}).content == state


def test_past_parameters_are_told_in_json_too(service: Service) -> None:
    path, answers, _ = _trained(service)
    told = service.get(f"{path}/params?step=2", headers=AS_JSON).json()
    assert (told["step"], told["generation"]) == (2, 1)
    for name, array in read_file(answers[2])[0].items():
        assert np.array_equal(np.array(told["params"][name], np.float32), array)


def test_looking_back_changes_nothing(service: Service) -> None:
    path, answers, states = _trained(service)
    before = service.view(path)
    for k in range(LAST):
        service.get(f"{path}/params", params={"step": k})
        service.get(f"{path}/state", params={"step": k})
    assert service.view(path) == before
    assert service.get(f"{path}/state").content == states[LAST]
    assert _tensors(service.get(f"{path}/params").content) == _tensors(answers[LAST])


def test_a_past_state_goes_on_elsewhere(service: Service) -> None:
    path, answers, _ = _trained(service, dtype="BF16")
    copy = service.session("copy", optimizer=ADAMW, dtype="BF16")
    past = service.get(f"{path}/state?step=3").content
    assert service.put(f"{copy}/state", content=past, headers=SAFETENSORS).json()["step"] == 3
    for n in (4, 5, 6):
        stepped = service.step(copy, n, gradients(n, **SHAPES))
        assert _tensors(stepped.content) == _tensors(answers[n])


def test_the_past_is_that_of_the_present_branch(service: Service) -> None:
    path, answers, _ = _trained(service)
    service.post(f"{path}/rewind", json={"step": 2})
    other = [service.step(path, n, gradients(10 + n, **SHAPES)).content for n in (3, 4)]
    for k, answer in enumerate([*answers[:3], *other]):
        past = service.get(f"{path}/params", params={"step": k})
        assert _tensors(past.content) == _tensors(answer)
        assert past.headers["Gradstep-Generation"] == "2"
    for part in ("params", "state"):
        gone = service.get(f"{path}/{part}?step=5")
        assert (gone.status_code, gone.json()["code"]) == (404, "step-not-found")


def test_the_past_has_the_hyperparameters_of_its_time(service: Service) -> None:
    path, _, states = _trained(service)
    service.patch(path, json={"lr": 0.5})
    service.step(path, LAST + 1, gradients(7, **SHAPES))
    assert service.get(f"{path}/state", params={"step": LAST}).content == states[LAST]
    present = read_file(service.get(f"{path}/state", params={"step": LAST + 1}).content)[1]
    assert '"lr":0.5' in present["config"]


def test_a_past_that_is_too_large_for_json_is_refused(service: Service) -> None:
    path = service.session("a")
    large = file({"w": np.zeros((1 << 20) + 1, np.float32)})
    service.put(f"{path}/params", content=large, headers=SAFETENSORS)
    refused = service.get(f"{path}/params?step=0", headers=AS_JSON)
    assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")


def test_a_session_without_parameters_has_no_past(service: Service) -> None:
    path = service.session("a")
    before = service.view(path)
    for method, part in (("GET", "params"), ("GET", "state"), ("POST", "rewind"), ("POST", "fork")):
        asked: dict[str, Any] = {"params" if method == "GET" else "json": {"step": 0}}
        refused = service.request(method, f"{path}/{part}", **asked)
        assert (refused.status_code, refused.json()["code"]) == (409, "params-missing")
    assert service.view(path) == before
