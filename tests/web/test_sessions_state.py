"""Parameters and whole states, up and down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from session_app import (
    ADAMW,
    AS_JSON,
    SAFETENSORS,
    Service,
    f32,
    file,
    gradients,
    read_file,
    running,
    same,
)

SHAPES = {"layer/weight": (3, 2), "bias": (2,), "scale": ()}
CONFIGS: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": ADAMW, "scheduler": {"type": "CosineAnnealingLR", "T_max": 7}},
    "AMSGrad": {"optimizer": {"type": "Adam", "lr": 0.01, "amsgrad": True}, "dtype": "BF16"},
    "momentum": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}, "dtype": "F64"},
    "RMSprop": {"optimizer": {"type": "RMSprop", "lr": 0.01, "centered": True, "momentum": 0.5}},
    "Rprop": {"optimizer": {"type": "Rprop", "lr": 0.1}, "dtype": "F64"},
    "Adagrad": {"optimizer": {"type": "Adagrad", "initial_accumulator_value": 0.5}},
    "plain": {
        "optimizer": {"type": "SGD", "lr": 0.1},
        "schedule_on": "epoch",
        "scheduler": {"type": "ExponentialLR", "gamma": 0.5},
        "param_groups": [{"match": ["bias"], "momentum": 0.5}],
    },
}


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _train(service: Service, path: str, first: int, last: int) -> None:
    """Take steps with gradients that depend on nothing but n; every third leaves one out."""
    for n in range(first, last + 1):
        grads = gradients(n, **SHAPES)
        if n % 3 == 0:
            del grads["bias"]
        answer = service.put(f"{path}/steps/{n}", content=file(grads), headers=SAFETENSORS)
        assert answer.status_code == 201


@pytest.mark.parametrize("form", ["json", "safetensors"])
def test_parameters_come_back_as_they_were_sent(service: Service, form: str) -> None:
    path = service.session("a")
    start = gradients(1, **SHAPES)
    listed = {name: array.tolist() for name, array in start.items()}
    body: dict[str, Any] = {"json": {"params": listed}}
    if form == "safetensors":
        body = {"content": file(start), "headers": SAFETENSORS}
    put = service.put(f"{path}/params", **body)
    assert put.status_code == 201
    assert {name: info["shape"] for name, info in put.json()["tensors"].items()} == {
        name: list(shape) for name, shape in SHAPES.items()
    }
    assert same(service.params(path), start)
    told = service.get(f"{path}/params", headers=AS_JSON).json()
    assert (told["step"], told["generation"]) == (0, 1)
    assert same({name: np.array(v, np.float32) for name, v in told["params"].items()}, start)


def test_downloaded_parameters_say_their_position(service: Service) -> None:
    path = service.session("a", params={"w": [1.0]})
    service.put(f"{path}/steps/1", json={"grads": {"w": [1]}})
    answer = service.get(f"{path}/params")
    assert answer.headers["Gradstep-Step"] == "1"
    assert answer.headers["Gradstep-Generation"] == "1"
    assert read_file(answer.content)[1] == {"step": "1", "generation": "1"}
    assert same(safetensors.numpy.load(answer.content), {"w": f32(0.9)})


def test_an_empty_tensor_and_a_scalar_travel_in_both_forms(service: Service) -> None:
    path = service.session("a", params={"none": [], "one": 1.5})
    assert same(service.params(path), {"none": f32(), "one": np.array(1.5, np.float32)})
    told = service.put(f"{path}/steps/1", json={"grads": {"none": [], "one": 1}}).json()
    assert told["params"]["none"] == []
    assert told["params"]["one"] == pytest.approx(1.4)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_state_goes_on_elsewhere_bit_for_bit(service: Service, config: str) -> None:
    start = file(gradients(0, **SHAPES))
    original = service.session("original", **CONFIGS[config])
    service.put(f"{original}/params", content=start, headers=SAFETENSORS)
    _train(service, original, 1, 5)
    if config == "plain":
        service.put(f"{original}/epochs/1")
    state = service.get(f"{original}/state")
    assert state.headers["Content-Type"] == "application/vnd.safetensors"

    copy = service.session("copy", **CONFIGS[config])
    loaded = service.put(f"{copy}/state", content=state.content, headers=SAFETENSORS)
    assert loaded.status_code == 201
    assert (loaded.json()["step"], loaded.json()["replayed"]) == (5, False)
    for key in ("epoch", "lr", "tensors", "groups"):
        assert loaded.json()[key] == service.get(original).json()[key]
    for path in (original, copy):
        _train(service, path, 6, 10)
    assert same(service.params(copy), service.params(original))
    ends = [read_file(service.get(f"{path}/state").content) for path in (original, copy)]
    assert same(ends[0][0], ends[1][0])
    assert ends[0][1]["counters"] == ends[1][1]["counters"]


def test_a_state_names_everything(service: Service) -> None:
    path = service.session("a", **CONFIGS["AMSGrad"])
    service.put(f"{path}/params", content=file(gradients(0, w=(2,), b=(1,))), headers=SAFETENSORS)
    service.put(f"{path}/steps/1", json={"grads": {"w": [1, 2]}})
    tensors, metadata = read_file(service.get(f"{path}/state").content)
    slots = {"params/w", "exp_avg/w", "exp_avg_sq/w", "max_exp_avg_sq/w", "params/b"}
    assert tensors.keys() == slots
    assert {array.dtype.name for array in tensors.values()} == {"float32"}
    assert (metadata["format"], metadata["version"]) == ("gradstep-state", "1")
    assert (metadata["step"], metadata["epoch"]) == ("1", "0")
    assert json.loads(metadata["counters"]) == {"w": 1, "b": 0}
    assert json.loads(metadata["config"])["optimizer"]["amsgrad"] is True


def test_a_state_says_what_the_next_step_will_use(service: Service) -> None:
    path = service.session(
        "a",
        optimizer={**ADAMW, "lr": 0.1, "weight_decay": 0.5},
        scheduler={"type": "OneCycleLR", "max_lr": 1, "total_steps": 60},
        weight_decay_scheduler={"type": "StepLR", "step_size": 1, "gamma": 0.5},
        params={"w": [1.0]},
    )
    for n in (1, 2):
        service.put(f"{path}/steps/{n}", json={"grads": {"w": [1]}})
    metadata = read_file(service.get(f"{path}/state").content)[1]
    session = service.get(path).json()
    for key in ("lr", "momentum", "weight_decay"):
        assert json.loads(metadata[key]) == session[key]
    assert json.loads(metadata["weight_decay"]) == [0.125]


def test_a_state_is_loaded_once(service: Service) -> None:
    original = service.session("original", params={"w": [1.0]})
    state = service.get(f"{original}/state").content
    copy = service.session("copy")
    for status, replayed in ((201, False), (200, True)):
        answer = service.put(f"{copy}/state", content=state, headers=SAFETENSORS)
        assert (answer.status_code, answer.json()["replayed"]) == (status, replayed)
    service.put(f"{original}/steps/1", json={"grads": {"w": [1]}})
    other = service.get(f"{original}/state").content
    refused = service.put(f"{copy}/state", content=other, headers=SAFETENSORS)
    assert (refused.status_code, refused.json()["code"]) == (409, "params-conflict")


def test_a_state_goes_on_from_the_step_it_was_taken_at(service: Service) -> None:
    original = service.session("original", params={"w": [1.0]})
    service.put(f"{original}/steps/1", json={"grads": {"w": [1]}})
    copy = service.session("copy")
    state = service.get(f"{original}/state").content
    service.put(f"{copy}/state", content=state, headers=SAFETENSORS)
    refused = service.put(f"{copy}/steps/1", json={"grads": {"w": [1]}})
    assert (refused.status_code, refused.json()["code"]) == (409, "position-mismatch")
    assert refused.json()["expected"] == 2
    assert service.get(f"{copy}/steps/1").status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"drop": "exp_avg_sq/w"}, "/exp_avg_sq/w"),
        ({"drop": "params/w"}, "/exp_avg/w"),
        ({"add": "momentum_buffer/w"}, "/momentum_buffer/w"),
        ({"meta": {"version": "2"}}, "/__metadata__"),
        ({"meta": {"step": "-1"}}, "/__metadata__/step"),
        ({"meta": {"step": "x"}}, "/__metadata__/step"),
        ({"meta": {"origin": "99"}}, "/__metadata__/origin"),
        ({"meta": {"counters": '{"v":1}'}}, "/counters/v"),
        ({"meta": {"counters": '{"w":-1}'}}, "/__metadata__/counters/w"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_names_what(
    service: Service, change: dict[str, Any], pointer: str
) -> None:
    original = service.session("original", optimizer=ADAMW, params={"w": [1.0]})
    service.put(f"{original}/steps/1", json={"grads": {"w": [1]}})
    tensors, metadata = read_file(service.get(f"{original}/state").content)
    tensors.pop(change.get("drop", ""), None)
    if "add" in change:
        tensors[change["add"]] = f32(1)
    copy = service.session("copy", optimizer=ADAMW)
    sent = file(tensors, {**metadata, **change.get("meta", {})})
    refused = service.put(f"{copy}/state", content=sent, headers=SAFETENSORS)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-tensors")
    assert refused.json()["pointer"] == pointer
    assert service.get(copy).json()["seq"] == 0
