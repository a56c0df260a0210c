"""Going another way: a new session begins right after step k of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from session_app import ADAMW, SAFETENSORS, SGD, Service, file, gradients, read_file, running, same

SHAPES = {"w": (3, 2), "b": (2,)}
CONFIG: dict[str, Any] = {
    "optimizer": ADAMW,
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 9},
    "param_groups": [{"match": ["b"], "lr": 0.5}],
    "dtype": "BF16",
}
CHANGES: dict[str, dict[str, Any]] = {
    "rate": {"lr": 0.25},
    "hyperparameter": {"optimizer": {"weight_decay": 0.5, "betas": [0.5, 0.75]}},
    "schedule": {"scheduler": {"type": "StepLR", "step_size": 1, "gamma": 0.5}},
    "no schedule": {"scheduler": None},
    "clip": {"clip": {"type": "value", "value": 0.1}},
    "several": {"lr": 0.125, "clip": {"type": "norm", "max_norm": 0.5}, "scheduler": None},
}


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _trained(service: Service, id: str = "a", *seeds: int, **config: Any) -> str:  # noqa: A002 - the parameter's name on the wire
    path = service.session(id, **{**CONFIG, **config})
    start = file(gradients(0, **SHAPES))
    assert service.put(f"{path}/params", content=start, headers=SAFETENSORS).status_code == 201
    _take(service, path, 1, *(seeds or (1, 2, 3, 4)))
    return path


def _take(service: Service, path: str, first: int, *seeds: int) -> None:
    """Take steps from `first` on, one for each seed."""
    for n, seed in enumerate(seeds, first):
        assert service.step(path, n, gradients(seed, **SHAPES)).status_code == 201


def _fork(service: Service, path: str, **asked: Any) -> httpx.Response:
    answer = service.post(f"{path}/fork", json=asked)
    assert answer.status_code == 201, answer.text
    return answer


def _state(service: Service, path: str) -> tuple[Any, str]:
    tensors, metadata = read_file(service.get(f"{path}/state").content)
    return tensors, metadata["counters"]


def test_a_fork_begins_right_after_its_step(service: Service) -> None:
    path = _trained(service)
    source, past = service.view(path), service.get(f"{path}/state?step=2").content
    answer = _fork(service, path, id="b", step=2)
    told = answer.json()
    assert answer.headers["Location"] == "/v1/sessions/b"
    assert answer.headers["ETag"] == f'"1-{told["seq"]}"'
    assert (told["id"], told["step"], told["generation"], told["replayed"]) == ("b", 2, 1, False)
    assert told["forked_from"] == {"id": "a", "step": 2, "generation": 1}
    for key in ("optimizer", "scheduler", "param_groups", "groups", "dtype", "tensors", "clip"):
        assert told[key] == source[key]
    assert service.view("/v1/sessions/b") == told
    assert service.get("/v1/sessions/b/state").content == past
    assert service.view(path) == source
    assert source["forked_from"] is None


def test_a_fork_takes_the_same_steps_bit_for_bit(service: Service) -> None:
    path = _trained(service)
    _fork(service, path, id="b", step=2)
    _take(service, "/v1/sessions/b", 3, 3, 4)
    assert _state(service, "/v1/sessions/b")[1] == _state(service, path)[1]
    assert same(_state(service, "/v1/sessions/b")[0], _state(service, path)[0])
    assert service.view("/v1/sessions/b")["lr"] == service.view(path)["lr"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_fork_with_changes_is_a_session_that_was_patched_there(
    service: Service, change: str
) -> None:
    path = _trained(service)
    told = _fork(service, path, id="b", step=2, **CHANGES[change]).json()
    twin = _trained(service, "twin", 1, 2)
    patched = service.patch(twin, json=CHANGES[change]).json()
    for key in ("optimizer", "scheduler", "groups", "clip", "lr"):
        assert told[key] == patched[key]
    for session in ("/v1/sessions/b", twin):
        _take(service, session, 3, 13, 14)
    assert same(_state(service, "/v1/sessions/b")[0], _state(service, twin)[0])
    assert service.get("/v1/sessions/b/schedule").json() == service.get(f"{twin}/schedule").json()


def test_a_fork_may_have_a_name_and_policies_of_its_own(service: Service) -> None:
    path = _trained(service, name="first")
    changes = {"name": "second", "on_nonfinite": "skip", "durability": "relaxed", "retain": 7}
    told = _fork(service, path, id="b", **changes).json()
    assert {key: told[key] for key in changes} == changes
    source = service.view(path)
    assert (source["name"], source["on_nonfinite"]) == ("first", "reject")
    assert (source["durability"], source["retain"]) == ("step", "none")


def test_without_a_step_a_fork_begins_as_the_session_stands(service: Service) -> None:
    path = _trained(service, schedule_on="epoch")
    service.put(f"{path}/epochs/1", json={"metric": 0.5})
    service.patch(path, json={"lr": 0.125})
    present = _fork(service, path, id="present").json()
    past = _fork(service, path, id="past", step=4).json()
    assert (present["step"], present["epoch"], present["optimizer"]["lr"]) == (4, 1, 0.125)
    assert (past["step"], past["epoch"], past["optimizer"]["lr"]) == (4, 0, 0.01)
    assert present["forked_from"] == past["forked_from"] == {"id": "a", "step": 4, "generation": 1}
    assert present["lr"] == service.view(path)["lr"]


def test_a_fork_may_be_forked_and_outlives_where_it_came_from(service: Service) -> None:
    path = _trained(service)
    _fork(service, path, id="b", step=3)
    _take(service, "/v1/sessions/b", 4, 14, 15)
    told = _fork(service, "/v1/sessions/b", id="c", step=4, lr=0.5).json()
    assert told["forked_from"] == {"id": "b", "step": 4, "generation": 1}
    assert service.delete(path).status_code == 204
    assert service.delete("/v1/sessions/b").status_code == 204
    _take(service, "/v1/sessions/c", 5, 25)
    straight = _trained(service, "straight", 1, 2, 3, 14)
    service.patch(straight, json={"lr": 0.5})
    _take(service, straight, 5, 25)
    assert same(service.params("/v1/sessions/c"), service.params(straight))
    assert service.view("/v1/sessions/c")["forked_from"]["id"] == "b"


def test_a_fork_says_which_generation_it_comes_from(service: Service) -> None:
    path = _trained(service)
    service.post(f"{path}/rewind", json={"step": 1})
    _take(service, path, 2, 12)
    told = _fork(service, path, id="b", step=2).json()
    assert told["forked_from"] == {"id": "a", "step": 2, "generation": 2}
    assert (told["generation"], told["step"]) == (1, 2)
    assert same(service.params("/v1/sessions/b"), service.params(path))


def test_a_fork_is_rewound_to_where_it_began_and_no_further(service: Service) -> None:
    path = _trained(service)
    told = _fork(service, path, id="b", step=2).json()
    assert told["oldest_step"] == 2
    begun = service.get("/v1/sessions/b/state").content
    _take(service, "/v1/sessions/b", 3, 13, 14)
    assert service.post("/v1/sessions/b/rewind", json={"step": 2}).json()["generation"] == 2
    assert service.get("/v1/sessions/b/state").content == begun
    for request in (("POST", "rewind"), ("POST", "fork")):
        refused = service.request(request[0], f"/v1/sessions/b/{request[1]}", json={"step": 1})
        assert (refused.status_code, refused.json()["code"]) == (410, "step-gone")
        assert refused.json()["oldest_step"] == 2


def test_a_fork_is_retried_with_its_id_and_made_once(service: Service) -> None:
    path = _trained(service)
    asked = {"id": "b", "step": 2, "lr": 0.5}
    first = _fork(service, path, **asked).json()
    again = service.post(f"{path}/fork", json=asked)
    assert (again.status_code, again.headers["Location"]) == (200, "/v1/sessions/b")
    assert again.json() == {**first, "replayed": True}
    _take(service, "/v1/sessions/b", 3, 13)
    _take(service, path, 5, 5)
    later = service.post(f"{path}/fork", json=asked)
    assert (later.status_code, later.json()["replayed"], later.json()["step"]) == (200, True, 3)
    assert [found["id"] for found in service.get("/v1/sessions").json()["sessions"]] == ["a", "b"]


def test_a_fork_of_the_present_is_retried_after_the_session_went_on(service: Service) -> None:
    path = _trained(service)
    _fork(service, path, id="b")
    _take(service, path, 5, 5)
    again = service.post(f"{path}/fork", json={"id": "b"})
    assert (again.status_code, again.json()["step"], again.json()["replayed"]) == (200, 4, True)


def test_of_many_equal_forks_at_once_one_is_fresh(service: Service) -> None:
    path = _trained(service)
    call = ("POST", f"{path}/fork", {"json": {"id": "b", "step": 2}})
    answers = service.together(*[call] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]


def test_a_fork_is_recognised_after_a_restart(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'data'}"
    asked = {"id": "b", "step": 2, "lr": 0.5}
    with running(store) as service:
        path = _trained(service)
        first = _fork(service, path, **asked).json()
        state = service.get("/v1/sessions/b/state").content
    with running(store) as service:
        again = service.post(f"{path}/fork", json=asked)
        assert again.status_code == 200
        assert again.json() == {**first, "replayed": True}
        assert service.get("/v1/sessions/b/state").content == state


@pytest.mark.parametrize(
    "change", [{"step": 3}, {"lr": 0.25}, {"name": "n"}, {"clip": {"type": "value", "value": 1}}]
)
def test_an_id_that_is_taken_by_another_fork_is_a_conflict(
    service: Service, change: dict[str, Any]
) -> None:
    path = _trained(service)
    asked = {"id": "b", "step": 2, "lr": 0.5}
    before = _fork(service, path, **asked).json()
    refused = service.post(f"{path}/fork", json={**asked, **change})
    assert (refused.status_code, refused.json()["code"]) == (409, "session-conflict")
    assert service.view("/v1/sessions/b") == before


def test_the_same_fork_of_another_session_is_a_conflict(service: Service) -> None:
    first, second = (_trained(service, name) for name in ("a", "twin"))
    _fork(service, first, id="b", step=2)
    refused = service.post(f"{second}/fork", json={"id": "b", "step": 2})
    assert (refused.status_code, refused.json()["code"]) == (409, "session-conflict")


def test_an_id_that_is_taken_by_any_session_is_a_conflict(service: Service) -> None:
    path = _trained(service)
    service.session("other", optimizer=SGD, params={"w": [1.0]})
    before = [service.view(taken) for taken in (path, "/v1/sessions/other")]
    for taken in ("a", "other"):
        refused = service.post(f"{path}/fork", json={"id": taken})
        assert (refused.status_code, refused.json()["code"]) == (409, "session-conflict")
    service.delete("/v1/sessions/other")
    refused = service.post(f"{path}/fork", json={"id": "other"})
    assert (refused.status_code, refused.json()["code"]) == (409, "session-deleted")
    assert service.view(path) == before[0]


def test_a_created_session_is_no_retry_of_a_fork(service: Service) -> None:
    path = _trained(service)
    _fork(service, path, id="b")
    refused = service.put("/v1/sessions/b", json=CONFIG)
    assert (refused.status_code, refused.json()["code"]) == (409, "session-conflict")


def test_without_an_id_every_fork_is_another_session(service: Service) -> None:
    path = _trained(service)
    first, second = (_fork(service, path, step=1) for _ in range(2))
    assert first.json()["id"] != second.json()["id"]
    assert first.headers["Location"] == f"/v1/sessions/{first.json()['id']}"
    assert same(*(service.params(fork.headers["Location"]) for fork in (first, second)))


def test_a_fork_of_a_session_without_parameters_waits_for_its_own(service: Service) -> None:
    path = service.session("a", optimizer=ADAMW)
    told = _fork(service, path, id="b", lr=0.5).json()
    assert (told["tensors"], told["step"], told["lr"]) == ({}, 0, [0.5])
    for session, value in ((path, 1.0), ("/v1/sessions/b", 2.0)):
        answer = service.put(f"{session}/params", json={"params": {"w": [value]}})
        assert answer.status_code == 201
    assert service.params("/v1/sessions/b")["w"].tolist() == [2.0]


def test_a_fork_for_an_old_generation_is_refused(service: Service) -> None:
    path = _trained(service)
    service.post(f"{path}/rewind", json={"step": 1})
    headers = {"Gradstep-Generation": "1"}
    refused = service.post(f"{path}/fork", json={"id": "b"}, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "generation-mismatch")
    assert service.get("/v1/sessions/b").status_code == 404


def test_a_fork_that_is_retried_after_a_rewind_is_recognised(service: Service) -> None:
    path = _trained(service)
    sent: dict[str, Any] = {"json": {"id": "b"}, "headers": {"Gradstep-Generation": "1"}}
    assert service.post(f"{path}/fork", **sent).status_code == 201
    service.post(f"{path}/rewind", json={"step": 1})
    again = service.post(f"{path}/fork", **sent)
    assert (again.status_code, again.json()["replayed"]) == (200, True)
    assert again.json()["forked_from"] == {"id": "a", "step": 4, "generation": 1}
