"""Two servers on one PostgreSQL are one service, also when one of them is killed."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from postgres_server import PASSWORD, PostgresServer
from server_process import Server, server
from session_app import ADAMW, SAFETENSORS, file, gradients, read_file, running, same

STEPS = 200
KILLED_AT = 100
RESTARTED_AT = 140
SHAPES = {"w": (16, 8), "b": (8,)}
CONFIG: dict[str, Any] = {
    "optimizer": ADAMW,
    "scheduler": {"type": "CosineAnnealingLR", "T_max": STEPS},
    "clip": {"type": "norm", "max_norm": 1.0},
}


def _step(http: httpx.Client, target: Server, n: int) -> httpx.Response:
    path = f"{target.url}/v1/sessions/a/steps/{n}"
    return http.put(path, content=file(gradients(n, **SHAPES)), headers=SAFETENSORS)


def _kill_in(http: httpx.Client, target: Server, n: int) -> None:
    """Kill a server while it takes a step, whose answer is lost, or not sent."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(_step, http, target, n)
        time.sleep(0.003)
        target.kill()
        failure = sent.exception()
    assert failure is None or isinstance(failure, httpx.TransportError)


def _create(service: Any, url: str = "") -> None:
    path = f"{url}/v1/sessions/a"
    assert service.put(path, json=CONFIG).status_code == 201
    start = file(gradients(0, **SHAPES))
    assert service.put(f"{path}/params", content=start, headers=SAFETENSORS).status_code == 201


def _uninterrupted() -> tuple[Any, dict[str, str]]:
    """Return the state after the same steps in memory, without a duplicate."""
    with running() as service:
        _create(service)
        for n in range(1, STEPS + 1):
            body = file(gradients(n, **SHAPES))
            path = f"/v1/sessions/a/steps/{n}"
            assert service.put(path, content=body, headers=SAFETENSORS).status_code == 201
        return read_file(service.get("/v1/sessions/a/state").content)


def test_replicas_take_each_step_once_although_one_is_killed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    source = random.Random(1)
    database = postgres.database()
    duplicates = 0
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    with (
        httpx.Client(timeout=30) as http,
        server(tmp_path / "1" / "data", store=database) as first,
        server(tmp_path / "2" / "data", store=database) as second,
    ):
        _create(http, first.url)
        for n in range(1, STEPS + 1):
            if n == KILLED_AT:
                _kill_in(http, first, n)
            if n == RESTARTED_AT:
                first.start()
            alive = [second] if KILLED_AT <= n < RESTARTED_AT else [first, second]
            answer = _step(http, alive[n % len(alive)], n)
            assert answer.headers["Gradstep-Position"] == str(n)
            taken = (answer.status_code, answer.headers["Gradstep-Replayed"])
            assert taken == (201, "false") or (n == KILLED_AT and taken == (200, "true"))
            if source.random() < 0.2:
                duplicates += 1
                again = _step(http, alive[(n + 1) % len(alive)], source.randint(max(1, n - 3), n))
                assert (again.status_code, again.headers["Gradstep-Position"]) == (200, str(n))
                assert again.headers["Gradstep-Replayed"] == "true"

        assert duplicates > STEPS // 10
        expected, facts = _uninterrupted()
        for target in (first, second):
            shown = http.get(f"{target.url}/v1/sessions/a").json()
            assert (shown["step"], shown["seq"]) == (STEPS, STEPS + 1)
            tensors, told = read_file(http.get(f"{target.url}/v1/sessions/a/state").content)
            assert same(tensors, expected)
            assert told == facts
            printed = target.log.read_text()
            assert (
                f"postgresql://postgres@/{database.partition('?')[0].rpartition('/')[2]}" in printed
            )
            assert PASSWORD not in printed
            assert quote(PASSWORD, safe="") not in printed
