"""A process that was told to end and cannot: it is ended in time, and nothing is lost by that."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from crash.sigterm import IN_TIME
from server_process import PATIENCE, Process, Server

from gradstep_server.serving import GRACE

CONFIG = {"optimizer": {"type": "SGD", "lr": 0.1}, "params": {"w": [1.0, 2.0]}}
STEP = {"grads": {"w": [1.0, 1.0]}}

_STUCK = """
import os, pathlib, threading
{place}

before = place.{call}

def stuck(*args, **kwargs):
    if pathlib.Path(os.environ["STUCK"]).exists():
        pathlib.Path(os.environ["STUCK"]).write_text("stuck")
        {what}
    return before(*args, **kwargs)

place.{call} = stuck
"""
Where = tuple[str, str]
_APPENDING = (
    "from gradstep_server.stores.sqlite.directory import SqliteDirectory as place",
    "append",
)
_COMPUTING = ("from gradstep_server.optimizers.compute import Compute as place", "run")
_STARTING = ("from gradstep_server import app as place", "warm_up")
_WAITS = "threading.Event().wait()"
_COMPUTES = "while True: pass"


class StuckServer(Server):
    """A server in which a call never returns from when a file is there."""

    def __init__(self, folder: Path, *flags: str, what: str, where: Where) -> None:
        super().__init__(folder / "data", *flags)
        self.stuck = folder / "stuck"
        self._code = folder / "code"
        self._code.mkdir()
        # Python runs a module of this name wherever it starts, in workers too.
        place, call = where
        code = _STUCK.format(place=place, call=call, what=what)
        (self._code / "sitecustomize.py").write_text(code)

    def _spawn(self, flags: list[str], settings: Mapping[str, str]) -> Process:
        path = os.pathsep.join(filter(None, (str(self._code), os.environ.get("PYTHONPATH"))))
        more = {"PYTHONPATH": path, "STUCK": str(self.stuck)}
        return super()._spawn(flags, {**settings, **more})

    def get_stuck(self) -> None:
        """Send a step that is never answered, and wait until it is under way."""
        self.stuck.touch()
        threading.Thread(target=self._step, daemon=True).start()
        self.await_stuck()

    def await_stuck(self) -> None:
        """Wait until the call is under way."""
        until = time.monotonic() + PATIENCE
        while self.stuck.read_text() != "stuck":
            assert time.monotonic() < until
            time.sleep(0.01)

    def _step(self) -> None:
        with suppress(httpx.TransportError):
            httpx.put(f"{self.url}/v1/sessions/s/steps/3", json=STEP, timeout=PATIENCE)


@pytest.fixture(
    params=[
        pytest.param((_APPENDING, _WAITS, "1"), id="a store that blocks"),
        pytest.param((_APPENDING, _WAITS, "2"), id="in a worker", marks=pytest.mark.slow),
        pytest.param((_APPENDING, _COMPUTES, "1"), id="a thread", marks=pytest.mark.slow),
        pytest.param((_COMPUTING, _WAITS, "1"), id="the loop", marks=pytest.mark.slow),
    ]
)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StuckServer]:
    where, what, workers = request.param
    started = StuckServer(tmp_path, "--workers", workers, what=what, where=where)
    try:
        started.start()
        yield started
    finally:
        started.close()


def test_it_is_gone_in_time_and_nothing_acknowledged_is_lost(target: StuckServer) -> None:
    with httpx.Client(base_url=target.url, timeout=PATIENCE) as http:
        for session, durability in (("s", "step"), ("relaxed", "relaxed")):
            path = f"/v1/sessions/{session}"
            wanted = {**CONFIG, "durability": durability}
            assert http.put(path, json=wanted).status_code == 201
            for n in (1, 2):
                assert http.put(f"{path}/steps/{n}", json=STEP).status_code == 201
    target.get_stuck()
    workers = target.process.children(recursive=True)
    began = time.monotonic()
    target.process.terminate()
    target.await_end()
    assert GRACE < time.monotonic() - began <= IN_TIME
    _, left = psutil.wait_procs(workers, 5)  # orphans, for which the system waits in its own time
    assert left == []
    assert "the process was told to end and has not" in target.log.read_text()
    target.stuck.unlink()
    target.start()
    with httpx.Client(base_url=target.url, timeout=PATIENCE) as http:
        assert http.get("/v1/sessions/relaxed").json()["step"] == 2
        assert http.get("/v1/sessions/s").json()["step"] in {2, 3}
        # What was not answered is sent again.
        taken = http.put("/v1/sessions/s/steps/3", json=STEP).json()
        assert taken["step"] == 3


def test_a_process_that_starts_is_ended_too(tmp_path: Path) -> None:
    target = StuckServer(tmp_path, what=_WAITS, where=_STARTING)
    target.stuck.touch()
    try:
        target.launch()
        target.await_stuck()
        assert target.stop() <= IN_TIME
    finally:
        target.close()
