"""When a step is synced, what a session says of it, and what it says after a loss."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres_server import PostgresServer
from session_app import SGD, Service, f32, running, same

from gradstep_server.sessions import background
from gradstep_server.stores.sqlite import unsynced

LAST = 5
PATIENCE = 30.0


@pytest.fixture
def never_synced_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SYNC_AFTER", 600.0)


def _session(service: Service, **config: Any) -> str:
    return service.session("a", optimizer=SGD, params={"w": [0.0]}, **config)


def _put(service: Service, path: str, n: int, generation: int) -> httpx.Response:
    headers = {"Gradstep-Generation": str(generation)}
    return service.put(f"{path}/steps/{n}", json={"grads": {"w": [n]}}, headers=headers)


def _relaxed(service: Service, path: str, first: int, last: int) -> list[int]:
    """Take steps; return the last synced step that each one was told."""
    answers = [_put(service, path, n, 1) for n in range(first, last + 1)]
    assert [answer.status_code for answer in answers] == [201] * len(answers)
    told = [answer.json()["durable_step"] for answer in answers]
    assert [answer.headers["Gradstep-Durable-Step"] for answer in answers] == [*map(str, told)]
    return told


def test_by_default_a_step_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    with running(f"sqlite:///{tmp_path / 'data'}") as service:
        path = _session(service)
        for n in range(1, LAST + 1):
            told = _put(service, path, n, 1).json()
            assert told["durable_step"] == service.view(path)["durable_step"] == n


@pytest.mark.usefixtures("never_synced_later")
def test_a_relaxed_step_is_acknowledged_before_it_is_synced_and_says_so(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'data'}"
    with running(store) as service:
        path = _session(service, durability="relaxed")
        assert _relaxed(service, path, 1, LAST) == [1] * LAST
        shown = service.view(path)
        assert (shown["durability"], shown["step"], shown["durable_step"]) == ("relaxed", LAST, 1)
        assert service.patch(path, json={"lr": 0.5}).json()["durable_step"] == LAST
    with running(store) as service:
        shown = service.view(path)
        assert (shown["step"], shown["durable_step"], shown["generation"]) == (LAST, LAST, 1)


def _assert_told_of_the_loss(service: Service, path: str, durable: int) -> None:
    """Assert that nobody can take a session that lost its tail for what it was."""
    shown = service.view(path)
    assert durable <= shown["step"] < LAST
    assert (shown["generation"], shown["durable_step"]) == (2, shown["step"])
    for n in (1, shown["step"] + 1, LAST, LAST + 1):
        late = _put(service, path, n, 1)
        assert (late.status_code, late.json()["code"]) == (409, "generation-mismatch")
        assert late.json()["generation"] == 2
    for n in range(shown["step"] + 1, LAST + 1):
        assert _put(service, path, n, 2).status_code == 201
    expected = f32(0)
    for n in range(1, LAST + 1):
        expected = expected - f32(0.1) * f32(n)
    assert same(service.params(path), {"w": expected})
    assert service.get(f"{path}/history").json()["step"] == list(range(1, LAST + 1))


@pytest.mark.usefixtures("never_synced_later")
def test_a_retry_after_the_machine_lost_the_tail_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot"
    monkeypatch.setattr(unsynced, "_BOOT_ID", boot)
    boot.write_text("first")
    with running(f"sqlite:///{tmp_path / 'data'}") as service:
        path = _session(service, durability="relaxed")
        _relaxed(service, path, 1, 2)
        shutil.copytree(tmp_path / "data", tmp_path / "left")
        durable = _relaxed(service, path, 3, LAST)[-1]
    boot.write_text("second")
    with running(f"sqlite:///{tmp_path / 'left'}") as service:
        assert service.view(path)["step"] == 2
        _assert_told_of_the_loss(service, path, durable)


@pytest.mark.usefixtures("never_synced_later")
def test_a_retry_after_the_database_lost_the_tail_is_refused(postgres: PostgresServer) -> None:
    with running(postgres.schema()) as service:
        path = _session(service, durability="relaxed")
        with postgres.frozen_log_writer():
            durable = _relaxed(service, path, 1, LAST)[-1]
            postgres.kill()
        postgres.start()
        until = time.monotonic() + PATIENCE
        while service.get(path).status_code == 503:
            assert time.monotonic() < until
            time.sleep(0.1)
        _assert_told_of_the_loss(service, path, durable)
