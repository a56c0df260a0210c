"""Several workers on one store, and a server that is asked to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import psutil
from server_process import server
from session_app import ADAMW, SAFETENSORS, Arrays, file, gradients, read_file, running, same

STEPS = 50
IN_TIME = 10.0
"""Seconds within which a server that is asked to end has ended."""

SHAPES = {"w": (8, 4), "b": (4,)}
CONFIG: dict[str, Any] = {
    "optimizer": ADAMW,
    "scheduler": {"type": "StepLR", "step_size": 10},
    "params": {"w": [[0.5] * 4] * 8, "b": [0.0] * 4},
}


def _holders(process: psutil.Process) -> int:
    """Return how many workers have the file of a session open."""
    return sum(
        any(_is_log(Path(opened.path)) for opened in worker.open_files())
        for worker in process.children(recursive=True)
    )


def _is_log(path: Path) -> bool:
    """Whether a file is in one of the folders of session files, named by two digits."""
    return path.suffix == ".sqlite" and len(path.parent.name) == len("00")


def test_two_workers_are_one_service(tmp_path: Path) -> None:
    # Every request opens a connection of its own, which either worker takes.
    http = httpx.Client(headers={"Connection": "close"})
    with http, server(tmp_path / "data", "--workers", "2") as target:
        path = f"{target.url}/v1/sessions/a"
        assert http.put(path, json=CONFIG).status_code == 201
        for n in range(1, STEPS + 1):
            body = file(gradients(n, **SHAPES))
            answer = http.put(f"{path}/steps/{n}", content=body, headers=SAFETENSORS)
            assert (answer.status_code, answer.headers["Gradstep-Position"]) == (201, str(n))
            assert http.get(path).json()["step"] == n
        assert _holders(target.process) == 2
        params = read_file(http.get(f"{path}/params").content)[0]
        assert same(params, _stepped_in_memory())

        assert http.delete(path).status_code == 204
        assert {http.get(path).status_code for _ in range(10)} == {404}
        assert {http.put(path, json=CONFIG).status_code for _ in range(10)} == {409}
        assert target.stop() < IN_TIME


def _stepped_in_memory() -> Arrays:
    with running() as service:
        path = service.session("a", **CONFIG)
        for n in range(1, STEPS + 1):
            content = file(gradients(n, **SHAPES))
            service.put(f"{path}/steps/{n}", content=content, headers=SAFETENSORS)
        return service.params(path)


def test_a_server_that_is_asked_to_end_does_so_in_time(tmp_path: Path) -> None:
    with server(tmp_path / "data") as target, httpx.Client(base_url=target.url) as kept_alive:
        assert kept_alive.put("/v1/sessions/a", json=CONFIG).status_code == 201
        assert target.stop() < IN_TIME
        target.start()
        assert httpx.get(f"{target.url}/v1/sessions/a").status_code == 200
