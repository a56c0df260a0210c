"""What is kept of a session: how far it can go back, and that it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from session_app import SAFETENSORS, Service, file, read_file, running

SIZE = 1 << 20
"""Elements of which a step takes 4 MiB of the log, so that a dozen steps outgrow what is kept."""

MOST = 40
"""Steps after which a log that is not trimmed is one that never will be."""

ONES = file({"w": np.ones(SIZE, np.float32)})
PLAIN = {"type": "SGD", "lr": 1.0}
"""With gradients of 1 from 0 on, every parameter is −k after step k."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _started(service: Service, id: str, **config: Any) -> str:  # noqa: A002 - the parameter's name on the wire
    path = service.session(id, optimizer=PLAIN, **config)
    zeros = file({"w": np.zeros(SIZE, np.float32)})
    assert service.put(f"{path}/params", content=zeros, headers=SAFETENSORS).status_code == 201
    return path


def _step(service: Service, path: str, n: int) -> dict[str, Any]:
    """Take a step; return what there is to see of the session then."""
    address = f"{path}/steps/{n}?return=receipt"
    assert service.put(address, content=ONES, headers=SAFETENSORS).status_code == 201
    return service.view(path)


def _until_trimmed(service: Service, path: str) -> Iterator[tuple[int, int]]:
    """Take steps until the oldest are gone; yield each position and what is the oldest then."""
    for n in range(1, MOST + 1):
        oldest = _step(service, path, n)["oldest_step"]
        yield n, oldest
        if oldest:
            return
    raise AssertionError(f"{path} was never trimmed")


@pytest.fixture(scope="module")
def trimmed(service: Service) -> tuple[str, int, int]:
    """A session of which only the last steps are kept, its position, and its oldest step."""
    path = _started(service, "trimmed")
    last, oldest = list(_until_trimmed(service, path))[-1]
    return path, last, oldest


def test_by_default_only_the_last_steps_are_kept(trimmed: tuple[str, int, int]) -> None:
    _, last, oldest = trimmed
    assert 0 < oldest <= last


@pytest.mark.parametrize(
    ("method", "part"), [("GET", "params"), ("GET", "state"), ("POST", "rewind"), ("POST", "fork")]
)
def test_what_is_no_longer_kept_is_gone_and_says_what_is(
    service: Service, trimmed: tuple[str, int, int], method: str, part: str
) -> None:
    path, _, oldest = trimmed
    before = service.view(path)
    for step in (0, oldest - 1):
        asked = {"params" if method == "GET" else "json": {"step": step}}
        gone = service.request(method, f"{path}/{part}", **asked)
        problem = gone.json()
        assert (gone.status_code, problem["code"]) == (410, "step-gone")
        assert problem["oldest_step"] == oldest
        assert str(oldest) in problem["detail"]
    assert service.view(path) == before


def test_every_step_that_is_kept_can_be_read(
    service: Service, trimmed: tuple[str, int, int]
) -> None:
    path, last, oldest = trimmed
    for k in range(oldest, last + 1):
        past = service.get(f"{path}/params", params={"step": k})
        assert past.status_code == 200
        assert (read_file(past.content)[0]["w"] == -k).all()


def test_the_oldest_step_that_is_kept_can_be_forked_and_gone_back_to(service: Service) -> None:
    path = _started(service, "back")
    oldest = list(_until_trimmed(service, path))[-1][1]
    fork = service.post(f"{path}/fork", json={"id": "forked", "step": oldest})
    assert (fork.status_code, fork.json()["step"]) == (201, oldest)
    assert (service.params("/v1/sessions/forked")["w"] == -oldest).all()
    rewound = service.post(f"{path}/rewind", json={"step": oldest})
    assert (rewound.status_code, rewound.json()["step"]) == (200, oldest)
    assert (service.params(path)["w"] == -oldest).all()
    assert _step(service, path, oldest + 1)["step"] == oldest + 1
    assert (service.params(path)["w"] == -(oldest + 1)).all()


def test_receipts_outlive_what_they_tell_of(
    service: Service, trimmed: tuple[str, int, int]
) -> None:
    path, last, _ = trimmed
    assert service.get(f"{path}/steps/1").json()["replayed"] is True
    again = service.put(f"{path}/steps/1?return=receipt", content=ONES, headers=SAFETENSORS)
    assert (again.status_code, again.json()["position"]) == (200, last)
    assert len(service.get(f"{path}/history").json()["step"]) == last


def test_as_many_steps_are_kept_as_were_asked_for(service: Service) -> None:
    kept = 3
    path = _started(service, "some", retain=kept)
    for n, oldest in _until_trimmed(service, path):
        assert oldest <= max(0, n - kept)
        past = service.get(f"{path}/params", params={"step": max(0, n - kept)})
        assert (read_file(past.content)[0]["w"] == -max(0, n - kept)).all()


def test_everything_is_kept_where_all_was_asked_for(
    service: Service, trimmed: tuple[str, int, int]
) -> None:
    _, last, _ = trimmed
    path = _started(service, "all", retain="all")
    for n in range(1, last + 1):
        assert _step(service, path, n)["oldest_step"] == 0
    assert (read_file(service.get(f"{path}/params?step=1").content)[0]["w"] == -1).all()
    assert service.post(f"{path}/rewind", json={"step": 0}).status_code == 200
    assert not service.params(path)["w"].any()


@pytest.mark.parametrize("retain", ["none", "all", 1, 9007199254740991])
def test_what_is_to_be_kept_can_be_chosen_and_changed(service: Service, retain: str | int) -> None:
    created = service.post("/v1/sessions", json={"optimizer": PLAIN, "retain": retain})
    assert created.json()["retain"] == retain
    path = created.headers["Location"]
    assert service.patch(path, json={"retain": 5}).json()["retain"] == 5
    assert service.patch(path, json={"retain": retain}).json()["retain"] == retain
    assert service.view(path)["retain"] == retain


def test_by_default_every_step_is_synced_and_no_more_is_kept_than_must_be(
    service: Service,
) -> None:
    shown = service.post("/v1/sessions", json={"optimizer": PLAIN}).json()
    assert (shown["durability"], shown["retain"], shown["oldest_step"]) == ("step", "none", 0)
