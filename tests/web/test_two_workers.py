"""Two workers on one store: what one does, the other knows; of a DELETE and a step one wins."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from postgres_server import PostgresServer
from session_app import ADAMW, SGD, Service, gradients, read_file, running, same

SHAPES = {"w": (3, 2), "b": (2,)}
PARAMS = {name: values.tolist() for name, values in gradients(0, **SHAPES).items()}
ROUNDS = 10
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    store = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'data'}"
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_process")
        server.start()
        store = server.schema()
    with running(store, workers=2) as first, running(store, workers=2) as second:
        for worker in (first, second):
            # FastAPI builds routes when they are first looked for, from parts that both
            # applications have in common: not to be done in two threads at a time.
            assert worker.get("/v1/nothing").status_code == 404
        yield first, second


def _unused() -> str:
    return f"s{next(_numbers)}"


def _session(service: Service) -> str:
    return service.session(_unused(), optimizer=ADAMW, params=PARAMS)


def _take(service: Service, path: str, first: int, *seeds: int) -> None:
    for n, seed in enumerate(seeds, first):
        assert service.step(path, n, gradients(seed, **SHAPES)).status_code == 201


def test_a_worker_that_is_behind_answers_with_what_the_other_did(
    workers: tuple[Service, Service],
) -> None:
    ahead, behind = workers
    path = _session(ahead)
    _take(behind, path, 1, 1)
    _take(ahead, path, 2, 2, 3)
    assert same(behind.params(path), ahead.params(path))
    assert behind.get(f"{path}/params").headers["Gradstep-Step"] == "3"
    assert behind.view(path) == ahead.view(path)


def test_a_rewind_through_one_is_seen_by_the_other(workers: tuple[Service, Service]) -> None:
    rewinder, other = workers
    path = _session(rewinder)
    _take(other, path, 1, 1, 2, 3)
    past = read_file(rewinder.get(f"{path}/params?step=1").content)[0]
    assert rewinder.post(f"{path}/rewind", json={"step": 1}).status_code == 200
    assert same(other.params(path), past)
    _take(other, path, 2, 12)
    late = other.step(path, 3, gradients(3, **SHAPES), Gradstep_Generation="1")
    assert (late.status_code, late.json()["code"]) == (409, "generation-mismatch")
    assert same(rewinder.params(path), other.params(path))
    assert rewinder.view(path) == other.view(path)
    assert other.view(path)["generation"] == 2


def test_a_fork_through_one_is_retried_through_the_other(
    workers: tuple[Service, Service],
) -> None:
    first, second = workers
    path = _session(first)
    _take(first, path, 1, 1, 2)
    asked = {"id": _unused(), "step": 1, "lr": 0.5}
    made = first.post(f"{path}/fork", json=asked)
    again = second.post(f"{path}/fork", json=asked)
    assert (made.status_code, again.status_code) == (201, 200)
    assert again.json() == {**made.json(), "replayed": True}


def _before(
    service: Service, method: str, act: Callable[[], object], patch: pytest.MonkeyPatch
) -> None:
    """Let something happen once, right before a method of a service's store is carried out."""
    store = service.app.state.services.sessions._store
    carry_out = getattr(store, method)

    async def act_first(*args: Any, **options: Any) -> Any:
        patch.setattr(store, method, carry_out)
        await asyncio.to_thread(act)
        return await carry_out(*args, **options)

    patch.setattr(store, method, act_first)


def _deletion(service: Service, path: str, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.delete(path, headers=sent)


def _counter(service: Service) -> str:
    """Create a session that has taken a step."""
    path = service.session(_unused(), optimizer=SGD, params={"w": [0.0]})
    assert service.put(f"{path}/steps/1", json={"grads": {"w": [1]}}).status_code == 201
    return path


def test_a_step_that_comes_after_a_deletion_is_refused(
    workers: tuple[Service, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepper, deleter = workers
    path = _counter(stepper)
    answers: list[httpx.Response] = []
    _before(
        stepper,
        "append",
        lambda: answers.append(_deletion(deleter, path, If_Match='"1-2"')),
        monkeypatch,
    )
    step = stepper.put(f"{path}/steps/2", json={"grads": {"w": [2]}})
    assert [answer.status_code for answer in answers] == [204]
    assert (step.status_code, step.json()["code"]) == (404, "session-not-found")
    for worker in workers:
        assert worker.get(path).status_code == 404


@pytest.mark.parametrize("moment", ["head", "newest"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("method", "part"), [("GET", ""), ("GET", "/params"), ("PUT", "/steps/3")])
def test_a_session_that_is_deleted_while_it_is_looked_at_is_gone(
    workers: tuple[Service, Service],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    known: bool,
    method: str,
    part: str,
) -> None:
    reader, deleter = workers
    path = _counter(deleter)
    if known:
        reader.view(path)
    assert deleter.put(f"{path}/steps/2", json={"grads": {"w": [2]}}).status_code == 201
    _before(reader, moment, lambda: deleter.delete(path), monkeypatch)
    body = {"json": {"grads": {"w": [3]}}} if method == "PUT" else {}
    gone = reader.request(method, f"{path}{part}", **body)
    assert (gone.status_code, gone.json()["code"]) == (404, "session-not-found")


@pytest.mark.parametrize(
    ("headers", "status"), [({"If_Match": '"1-2"'}, 412), ({"If_Match": "*"}, 204), ({}, 204)]
)
def test_a_deletion_that_comes_after_a_step_spares_what_it_did_not_name(
    workers: tuple[Service, Service],
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
    status: int,
) -> None:
    stepper, deleter = workers
    path = _counter(stepper)
    assert deleter.view(path)["step"] == 1
    answers: list[httpx.Response] = []
    body = {"grads": {"w": [2]}}
    _before(
        deleter,
        "delete",
        lambda: answers.append(stepper.put(f"{path}/steps/2", json=body)),
        monkeypatch,
    )
    deleted = _deletion(deleter, path, **headers)
    assert [answer.status_code for answer in answers] == [201]
    assert deleted.status_code == status
    for worker in workers:
        shown = worker.get(path)
        assert shown.status_code == (200 if status == 412 else 404)
        assert status == 204 or shown.json()["step"] == 2


def test_of_a_deletion_and_a_step_at_once_exactly_one_wins(
    workers: tuple[Service, Service],
) -> None:
    stepper, deleter = workers
    with ThreadPoolExecutor(2) as threads:
        for _ in range(ROUNDS):
            path = stepper.session(_unused(), optimizer=SGD, params={"w": [0.0]})
            body = {"grads": {"w": [1]}}
            calls = [
                threads.submit(stepper.put, f"{path}/steps/1", json=body),
                threads.submit(_deletion, deleter, path, If_Match='"1-1"'),
            ]
            step, deletion = (call.result(timeout=30) for call in calls)
            assert (step.status_code, deletion.status_code) in {(201, 412), (404, 204)}
            seen = [worker.get(path).status_code for worker in workers]
            assert seen == [404, 404] if deletion.status_code == 204 else [200, 200]
