"""A server that is asked to end: what it still does, and how long that may take."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from crash import sigterm
from server_process import PATIENCE, Server, server
from session_app import SAFETENSORS, f32, file

from gradstep_server.serving import GRACE

CONFIG = {"optimizer": {"type": "SGD", "lr": 0.1}, "params": {"w": [1.0, 2.0]}}
DRAIN = 5


@pytest.fixture(params=["1", "2"], ids=["one process", "two workers"])
def draining(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that goes on for some seconds when it is asked to end."""
    flags = ("--workers", request.param, "--drain-seconds", str(DRAIN))
    with server(tmp_path / "data", *flags) as started:
        yield started


def test_sigterm_under_load_loses_nothing_acknowledged_and_ends_in_time() -> None:
    [finding] = sigterm.run(2 / sigterm.ROUNDS, lambda _done, _total: None)
    assert "0 acknowledged steps lost" in finding.found


def test_a_client_that_stops_within_a_body_delays_the_end_no_longer_than_its_time(
    running: Server,
) -> None:
    path = "/v1/sessions/s"
    assert httpx.put(f"{running.url}{path}", json=CONFIG, timeout=PATIENCE).is_success
    with sigterm.stalled_body(running, path):
        assert GRACE <= running.stop() <= sigterm.IN_TIME


def test_a_draining_server_says_so_and_serves_as_before(draining: Server) -> None:
    with httpx.Client(base_url=draining.url, timeout=PATIENCE) as http:
        assert http.put("/v1/sessions/s", json=CONFIG).status_code == 201
        draining.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while (answer := http.get("/readyz")).is_success:
            assert time.monotonic() < began + DRAIN
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        # A connection of its own: the listener is open still.
        body = file({"w": f32(1, 1)})
        step = f"{draining.url}/v1/sessions/s/steps/1"
        assert httpx.put(step, content=body, headers=SAFETENSORS).status_code == 201
    draining.await_end()
    assert time.monotonic() > began + DRAIN - 0.5


def test_a_second_signal_ends_the_draining(tmp_path: Path) -> None:
    with server(tmp_path / "data", "--drain-seconds", "60") as started:
        started.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{started.url}/readyz").is_success:
            pass
        assert started.stop() < sigterm.IN_TIME
