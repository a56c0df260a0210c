"""Every write happens once, whatever is retried, at the same time or after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from session_app import (
    ADAMW,
    AS_JSON,
    SAFETENSORS,
    SGD,
    Call,
    Service,
    f32,
    file,
    gradients,
    running,
    same,
)

TIMES = 5
GRADS = gradients(7, w=(3, 2), b=(2,))
PARAMS = {"w": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "b": [0.5, -0.5]}
CONFIG: dict[str, Any] = {"optimizer": ADAMW, "schedule_on": "epoch", "params": PARAMS}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'data'}"


@pytest.fixture
def durable(store: str) -> Iterator[Service]:
    with running(store) as started:
        yield started


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _json(**body: Any) -> dict[str, Any]:
    return {"json": body}


WRITES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "step": ("PUT", "/steps/1", {"content": file(GRADS), "headers": {**SAFETENSORS, **AS_JSON}}),
    "step in JSON": ("PUT", "/steps/1", _json(grads={"b": [1, 2]}, loss=0.5, lr=0.25)),
    "epoch": ("PUT", "/epochs/1", _json(metric=0.25)),
    "epoch without a body": ("PUT", "/epochs/1", {}),
    "params": ("PUT", "/params", _json(params=PARAMS)),
    "creation": ("PUT", "", _json(**CONFIG)),
    "patch": ("PATCH", "", {"json": {"lr": 0.5}, "headers": {"If-Match": '"1-1"'}}),
    "rewind": ("POST", "/rewind", {"json": {"step": 0}, "headers": {"If-Match": '"1-1"'}}),
    "fork": ("POST", "/fork", _json(id="b", step=0, lr=0.5)),
}


FENCED = [*(write for write in WRITES if write != "creation"), "delete"]
"""What a generation fences: not a creation, before which there is none."""


def _position(service: Service, path: str) -> dict[str, Any]:
    shown: dict[str, Any] = service.get(path).json()
    return {key: shown[key] for key in ("step", "epoch", "seq", "generation", "updated_at", "lr")}


def _prepare(service: Service, write: str) -> Call:
    """Create the session that a write needs; return the write."""
    method, path, options = WRITES[write]
    if write == "params":
        service.session("a", **{**CONFIG, "params": None})
    elif write != "creation":
        service.session("a", **CONFIG)
    return method, f"/v1/sessions/a{path}", options


@pytest.mark.parametrize("write", WRITES)
def test_of_many_equal_writes_at_once_one_is_fresh(durable: Service, write: str) -> None:
    call = _prepare(durable, write)
    answers = durable.together(*[call] * TIMES)
    fresh = 200 if write in {"patch", "rewind"} else 201
    assert sorted(answer.status_code for answer in answers) == sorted([fresh, *[200] * (TIMES - 1)])
    assert sorted(answer.json()["replayed"] for answer in answers) == [False, *[True] * (TIMES - 1)]
    assert len({_told(answer) for answer in answers}) == 1


@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_recognised_after_a_restart(store: str, write: str) -> None:
    with running(store) as service:
        call = _prepare(service, write)
        first = service.request(call[0], call[1], **call[2])
        position, params = _position(service, "/v1/sessions/a"), service.params("/v1/sessions/a")
    with running(store) as service:
        again = service.request(call[0], call[1], **call[2])
        assert (again.status_code, again.json()["replayed"]) == (200, True)
        assert _told(again) == _told(first)
        assert _position(service, "/v1/sessions/a") == position
        assert same(service.params("/v1/sessions/a"), params)


def _told(answer: httpx.Response) -> str:
    """Return what an answer says, apart from whether it is a replay."""
    return str({k: v for k, v in answer.json().items() if k != "replayed"})


def test_many_deletes_at_once_delete_once(durable: Service) -> None:
    path = durable.session("a", **CONFIG)
    answers = durable.together(*[("DELETE", path, {})] * TIMES)
    assert [answer.status_code for answer in answers] == [204] * TIMES
    replayed = sorted(answer.headers["Gradstep-Replayed"] for answer in answers)
    assert replayed == ["false", *["true"] * (TIMES - 1)]


def test_a_delete_is_recognised_after_a_restart(store: str) -> None:
    with running(store) as service:
        path = service.session("a", **CONFIG)
        assert service.delete(path).headers["Gradstep-Replayed"] == "false"
    with running(store) as service:
        again = service.delete(path, headers={"If-Match": '"1-1"'})
        assert (again.status_code, again.headers["Gradstep-Replayed"]) == (204, "true")
        refused = service.put(path, json=CONFIG)
        assert (refused.status_code, refused.json()["code"]) == (409, "session-deleted")


def test_of_different_writers_of_one_step_exactly_one_wins(durable: Service) -> None:
    path = durable.session("a", optimizer=SGD, params={"w": [0.0]})
    calls = [("PUT", f"{path}/steps/1", _json(grads={"w": [i]})) for i in range(1, TIMES + 1)]
    answers = durable.together(*calls)
    won = [i for i, answer in enumerate(answers, 1) if answer.status_code == 201]
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert (len(won), len(lost)) == (1, TIMES - 1)
    assert {(problem["code"], problem["expected"]) for problem in lost} == {("step-conflict", 2)}
    assert same(durable.params(path), {"w": -f32(0.1) * f32(won[0])})


def test_posts_at_once_take_one_position_each(service: Service) -> None:
    path = service.session("a", optimizer=SGD, params={"w": [0.0]})
    answers = service.together(*[("POST", f"{path}/steps", _json(grads={"w": [1]}))] * TIMES)
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(answer.json()["step"] for answer in answers) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("n", [1, 2])
def test_other_content_for_a_step_that_was_taken_is_a_conflict(service: Service, n: int) -> None:
    path = service.session("a", optimizer=SGD, params={"w": [0.0]})
    for step in (1, 2):
        service.put(f"{path}/steps/{step}", json={"grads": {"w": [1]}})
    for body in ({"grads": {"w": [2]}}, {"grads": {"w": [1]}, "lr": 0.1}):
        refused = service.put(f"{path}/steps/{n}", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "step-conflict")
        assert refused.json()["expected"] == 3
    assert service.get(path).json()["step"] == 2


@pytest.mark.parametrize(
    ("path", "expected"), [("steps/3", 2), ("steps/9007199254740991", 2), ("epochs/2", 1)]
)
def test_a_number_ahead_is_told_which_one_is_next(
    service: Service, path: str, expected: int
) -> None:
    session = service.session("a", **CONFIG)
    service.put(f"{session}/steps/1", json={"grads": {"b": [1, 1]}})
    refused = service.put(f"{session}/{path}", json=_fitting(path))
    assert (refused.status_code, refused.json()["code"]) == (409, "position-mismatch")
    assert refused.json()["expected"] == expected


def _fitting(path: str) -> dict[str, Any]:
    return {"metric": 1} if path.startswith("epochs") else {"grads": {"b": [1, 1]}}


def test_an_old_step_is_replayed_with_the_present_parameters(service: Service) -> None:
    path = service.session("a", optimizer=SGD, params={"w": [0.0]})
    first = service.put(f"{path}/steps/1", json={"grads": {"w": [1]}}).json()
    second = service.put(f"{path}/steps/2", json={"grads": {"w": [2]}}).json()
    again = service.put(f"{path}/steps/1", json={"grads": {"w": [1]}})
    assert again.status_code == 200
    assert again.headers["Gradstep-Position"] == "2"
    assert again.json() == {
        **first,
        "replayed": True,
        "position": 2,
        "durable_step": 2,
        "params": second["params"],
    }


def test_a_retry_is_recognised_in_another_encoding(service: Service) -> None:
    path = service.session("a", optimizer=SGD, params={"w": [0.0, 1.0]})
    w = f32(0.5, -0.25)
    query = {"loss": "0.5", "lr": "0.25"}
    sent = service.put(f"{path}/steps/1", content=file({"w": w}), headers=SAFETENSORS, params=query)
    assert sent.status_code == 201
    retried = service.put(
        f"{path}/steps/1", json={"lr": 0.25, "loss": 0.5, "grads": {"w": [0.5, -0.25]}}
    )
    assert (retried.status_code, retried.json()["replayed"]) == (200, True)
    other = service.put(
        f"{path}/steps/1", json={"lr": 0.25, "loss": 0.6, "grads": {"w": w.tolist()}}
    )
    assert (other.status_code, other.json()["code"]) == (409, "step-conflict")


def test_the_order_of_tensors_and_keys_is_no_content(service: Service) -> None:
    path = service.session("a", **CONFIG)
    forward, backward = file(GRADS), file(dict(reversed(GRADS.items())))
    assert forward != backward
    for content, status in ((forward, 201), (backward, 200)):
        answer = service.put(f"{path}/steps/1", content=content, headers={**SAFETENSORS, **AS_JSON})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("change", "value"),
    [("params", {**PARAMS, "b": [0.5, 0.5]}), ("optimizer", SGD), ("name", "n")],
)
def test_an_id_that_is_taken_by_other_content_is_a_conflict(
    service: Service, change: str, value: Any
) -> None:
    path = service.session("a", **CONFIG)
    refused = service.put(path, json={**CONFIG, change: value})
    assert (refused.status_code, refused.json()["code"]) == (409, "session-conflict")
    assert service.get(path).json()["name"] is None


def test_other_parameters_than_those_that_are_set_are_a_conflict(service: Service) -> None:
    path = service.session("a", **CONFIG)
    assert service.put(f"{path}/params", json={"params": PARAMS}).status_code == 200
    refused = service.put(f"{path}/params", json={"params": {**PARAMS, "b": [1, 1]}})
    assert (refused.status_code, refused.json()["code"]) == (409, "params-conflict")


def test_a_patch_of_an_old_version_is_refused_and_says_which_is_current(service: Service) -> None:
    path = service.session("a", **CONFIG)
    first = service.patch(path, json={"lr": 0.5}, headers={"If-Match": '"1-1"'})
    assert first.headers["ETag"] == '"1-2"'
    refused = service.patch(path, json={"lr": 0.25}, headers={"If-Match": '"1-1"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition-failed")
    assert '"1-2"' in refused.json()["detail"]
    assert service.get(path).json()["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize("tags", ['"1-0", "1-1"', '"1-1" , "1-7"', 'W/"1-0",,"x,y", "1-1",'])
def test_a_list_of_versions_needs_to_hold_the_current_one(service: Service, tags: str) -> None:
    path = service.session("a", **CONFIG)
    patched = service.patch(path, json={"lr": 0.5}, headers={"If-Match": tags})
    assert (patched.status_code, patched.headers["ETag"]) == (200, '"1-2"')


def test_a_patch_for_a_list_of_versions_is_recognised_again(service: Service) -> None:
    path = service.session("a", **CONFIG)
    headers = {"If-Match": '"1-0", "1-1"'}
    first = service.patch(path, json={"lr": 0.5}, headers=headers)
    again = service.patch(path, json={"lr": 0.5}, headers=headers)
    assert (first.json()["replayed"], again.json()["replayed"]) == (False, True)
    assert again.headers["ETag"] == '"1-2"'


def test_versions_may_stand_in_several_headers(service: Service) -> None:
    path = service.session("a", **CONFIG)
    several = httpx.Headers([("If-Match", '"1-0"'), ("If-Match", '"1-1"')])
    assert service.patch(path, json={"lr": 0.5}, headers=several).status_code == 200
    refused = service.patch(path, json={"lr": 0.25}, headers=several)
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition-failed")


def test_a_delete_for_a_list_of_versions_is_recognised_again(service: Service) -> None:
    path = service.session("a", **CONFIG)
    headers = {"If-Match": '"1-0", "1-1"'}
    answers = [service.delete(path, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 204]
    assert [answer.headers["Gradstep-Replayed"] for answer in answers] == ["false", "true"]


def test_a_delete_of_an_old_version_is_refused(service: Service) -> None:
    path = service.session("a", **CONFIG)
    service.put(f"{path}/steps/1", json={"grads": {"b": [1, 1]}})
    refused = service.delete(path, headers={"If-Match": '"1-1"'})
    assert (refused.status_code, refused.json()["code"]) == (412, "precondition-failed")
    assert service.get(path).status_code == 200


@pytest.mark.parametrize("write", FENCED)
def test_a_write_for_another_generation_is_refused(service: Service, write: str) -> None:
    method, path, options = ("DELETE", "", {}) if write == "delete" else WRITES[write]
    service.session("a", **CONFIG)
    before = _position(service, "/v1/sessions/a")
    headers = {**options.get("headers", {}), "Gradstep-Generation": "2"}
    headers.pop("If-Match", None)
    refused = service.request(method, f"/v1/sessions/a{path}", **{**options, "headers": headers})
    assert (refused.status_code, refused.json()["code"]) == (409, "generation-mismatch")
    assert refused.json()["generation"] == 1
    assert _position(service, "/v1/sessions/a") == before


def test_a_write_for_the_present_generation_is_carried_out(service: Service) -> None:
    path = service.session("a", **CONFIG)
    headers = {"Gradstep-Generation": "1"}
    stepped = service.put(f"{path}/steps/1", json={"grads": {"b": [1, 1]}}, headers=headers)
    assert stepped.status_code == 201
    assert service.patch(path, json={"lr": 1}, headers=headers).status_code == 200
    assert service.delete(path, headers=headers).status_code == 204
