"""Answers that hold tensors: how large, and where they are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from session_app import AS_JSON, SAFETENSORS, Service, f32, file, running, same

from gradstep_server.web import nested, tensor_answers

MANY = 100_000
"""Elements that are worth a thread."""


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tensor_answers, "JSON_ELEMENTS", 5)
    return 5


def test_parameters_up_to_the_limit_are_written_as_json(service: Service, limit: int) -> None:
    path = service.session("a", params={"w": [[1.0, 2.0]], "b": [0.0] * (limit - 2)})
    assert service.get(f"{path}/params", headers=AS_JSON).status_code == 200
    stepped = service.put(f"{path}/steps/1", json={"grads": {"w": [[1, 1]]}})
    assert stepped.json()["params"]["w"] == [[pytest.approx(0.9), pytest.approx(1.9)]]


def test_more_parameters_are_refused_as_json_before_a_step_is_taken(
    service: Service, limit: int
) -> None:
    path = service.session("a", params={"w": [[1.0, 2.0]], "b": [0.0] * (limit - 1)})
    before = service.get(path).content
    body = {"grads": {"w": [[1, 1]]}}
    for refused in (
        service.get(f"{path}/params", headers=AS_JSON),
        service.put(f"{path}/steps/1", json=body),
        service.post(f"{path}/steps", json=body, headers=AS_JSON),
    ):
        assert (refused.status_code, refused.json()["code"]) == (406, "not-acceptable")
        assert refused.json()["detail"] == (
            "the parameters have 6 elements, and at most 5 are written as JSON; "
            "send Accept: application/vnd.safetensors"
        )
    assert service.get(path).content == before


@pytest.mark.parametrize(
    "options",
    [{"params": {"return": "receipt"}}, {"headers": {"Accept": SAFETENSORS["Content-Type"]}}],
)
def test_more_parameters_are_stepped_where_they_need_not_be_json(
    service: Service, limit: int, options: dict[str, Any]
) -> None:
    path = service.session("a", params={"w": [0.0] * (limit + 1)})
    grads = {"w": [-10.0] * (limit + 1)}
    assert service.put(f"{path}/steps/1", json={"grads": grads}, **options).status_code == 201
    assert same(service.params(path), {"w": f32(*[1.0] * (limit + 1))})


def test_the_limit_is_told_in_the_api(service: Service) -> None:
    paths = service.app.openapi()["paths"]
    for path, method in (("params", "get"), ("steps", "post"), ("steps/{n}", "put")):
        description = paths[f"/v1/sessions/{{id}}/{path}"][method]["description"]
        assert str(tensor_answers.JSON_ELEMENTS) in description


@pytest.mark.parametrize(("elements", "inline"), [(1, True), (MANY, False)])
def test_many_elements_are_read_and_written_beside_the_event_loop(
    service: Service, elements: int, inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, threading.Thread] = {}
    for name in ("_tensor", "_written"):
        inner = getattr(nested, name)

        def noted(*args: Any, name: str = name, inner: Any = inner) -> Any:
            threads[name] = threading.current_thread()
            return inner(*args)

        monkeypatch.setattr(nested, name, noted)
    path = service.session("a")
    values = np.arange(elements, dtype=np.float32)
    put = service.put(f"{path}/params", json={"params": {"w": [values.tolist()]}})
    assert put.status_code == 201
    told = service.get(f"{path}/params", headers=AS_JSON).json()["params"]
    assert told["w"] == [values.tolist()]
    sent = service.put(f"{path}/steps/1", content=file({"w": values[None]}), headers=SAFETENSORS)
    assert sent.status_code == 201
    assert threads.keys() == {"_tensor", "_written"}
    loop = service.loop_thread
    assert {thread is loop for thread in threads.values()} == {inline}
