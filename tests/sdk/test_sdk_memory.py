"""What a step costs in memory: the gradients are read where they are, the answer received once."""

from __future__ import annotations

import json
import socket
import tracemalloc
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from scripted_server import Script, ScriptedServer

import gradstep
from gradstep._arrays import to_tensors
from gradstep._core import BLOCK
from gradstep._safetensors import encode

ELEMENTS = 5_000_000

SESSION = {
    "id": "s1",
    "name": None,
    "step": 0,
    "epoch": 0,
    "generation": 1,
    "seq": 1,
    "durable_step": 0,
    "oldest_step": 0,
    "optimizer": {"type": "SGD"},
    "scheduler": None,
    "weight_decay_scheduler": None,
    "momentum": None,
    "weight_decay": None,
    "schedule_on": "step",
    "param_groups": [],
    "groups": [],
    "freeze": [],
    "accumulate": None,
    "accumulated": 0,
    "clip": None,
    "on_nonfinite": "reject",
    "durability": "step",
    "retain": "none",
    "dtype": "F32",
    "forked_from": None,
    "lr": [0.1],
    "tensors": {},
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
    "replayed": False,
}

RECEIPT = {
    "step": 1,
    "position": 1,
    "replayed": False,
    "applied": True,
    "accumulated": None,
    "durable_step": 1,
    "lr": [0.1],
    "next_lr": [0.1],
    "momentum": None,
    "weight_decay": None,
    "grad_norm": 1.0,
    "loss": None,
    "clipped": False,
    "frozen": 0,
    "generation": 1,
}


class Pieces(httpx.SyncByteStream):
    """An answer that comes in small pieces."""

    def __init__(self, parts: tuple[memoryview, ...]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            for begin in range(0, len(part), BLOCK // 4):
                yield bytes(part[begin : begin + BLOCK // 4])


class Echo(httpx.BaseTransport):
    """Takes a body piece by piece, keeps none of it, and answers with parameters."""

    def __init__(self, parts: tuple[memoryview, ...]) -> None:
        self._parts = parts
        self.received = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=SESSION)
        assert isinstance(request.stream, httpx.SyncByteStream)
        self.received = sum(map(len, request.stream))
        length = str(sum(map(len, self._parts)))
        headers = {"Content-Length": length}
        return httpx.Response(201, headers=headers, stream=Pieces(self._parts))


def swallowing(parts: tuple[memoryview, ...]) -> Script:
    """Return a script that does as `Echo`, and allocates nothing."""
    room = bytearray(BLOCK)
    session = json.dumps(SESSION).encode()

    def swallow(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        while left:
            left -= connection.recv_into(room, min(left, BLOCK))

    def run(connection: socket.socket) -> None:
        for answer in ((memoryview(session),), parts):
            swallow(connection)
            length = sum(map(len, answer))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for part in answer:
                connection.sendall(part)

    return run


def answer_parts(params: np.ndarray[tuple[int], np.dtype[np.float32]]) -> tuple[memoryview, ...]:
    return encode(to_tensors({"w": params}), {"receipt": json.dumps(RECEIPT)})


def test_a_step_over_a_socket_holds_one_answer_and_no_copy_of_the_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    params = np.arange(ELEMENTS, dtype=np.float32)
    with (
        ScriptedServer(swallowing(answer_parts(params))) as server,
        gradstep.Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        peak = peak_of_a_step(client, params)
    assert peak < params.nbytes + BLOCK, f"{peak / params.nbytes:.2f} answers"


def peak_of_a_step(
    client: gradstep.Client, params: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> int:
    """Return the bytes that a step holds at most, once it has given back what it should."""
    session = client.sessions.resume("s1")
    tracemalloc.start()
    try:
        stepped = session.step({"w": params})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(stepped["w"], params)
    return peak


def test_a_step_holds_one_answer_and_no_copy_of_the_gradients() -> None:
    params = np.arange(ELEMENTS, dtype=np.float32)
    echo = Echo(answer_parts(params))
    with gradstep.Client("http://host", transport=echo) as client:
        peak = peak_of_a_step(client, params)
    assert echo.received > params.nbytes
    assert peak < params.nbytes + 16 * BLOCK, f"{peak / params.nbytes:.2f} answers"
