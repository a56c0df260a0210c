"""What a step of 100 MB costs in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from server_process import server
from session_app import SAFETENSORS, file

ELEMENTS = 25_000_000
BODY = 4 * ELEMENTS
SLACK = 64 * 2**20
PIECE = 1 << 20


def _peak(process: psutil.Process) -> int:
    """Return the most bytes that a process ever held, VmHWM."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    raise AssertionError("the kernel does not say VmHWM")


def _pieces(body: bytes) -> Iterator[bytes]:
    for begin in range(0, len(body), PIECE):
        yield body[begin : begin + PIECE]


def _put(http: httpx.Client, path: str, body: bytes) -> int:
    """Send a large body, throw the answer away; return its status."""
    headers = {**SAFETENSORS, "Content-Length": str(len(body))}
    with http.stream("PUT", path, content=_pieces(body), headers=headers) as answer:
        received = sum(len(piece) for piece in answer.iter_raw())
    assert received == int(answer.headers["Content-Length"])
    return answer.status_code


@pytest.mark.slow
def test_a_large_step_takes_two_bodies_beyond_the_state(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    body = file({"w": source.standard_normal(ELEMENTS, np.float32)})
    with (
        server(tmp_path / "data") as target,
        httpx.Client(base_url=target.url, timeout=120) as http,
    ):
        process = target.process
        idle = process.memory_info().rss
        session = {"optimizer": {"type": "AdamW", "lr": 0.001}}
        assert http.put("/v1/sessions/a", json=session).status_code == 201
        assert _put(http, "/v1/sessions/a/params", body) == 201
        for n in (1, 2, 3):
            began = time.perf_counter()
            assert _put(http, f"/v1/sessions/a/steps/{n}", body) == 201
            print(f"step {n}: {time.perf_counter() - began:.2f} s")
        state = 3 * BODY
        bound = idle + state + 2 * BODY + SLACK
        mb = {"idle": idle, "peak": _peak(process), "bound": bound}
        print({name: round(value / 1e6) for name, value in mb.items()}, "MB")
        assert _peak(process) <= bound
