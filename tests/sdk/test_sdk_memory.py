"""What a step costs in memory: the gradients are read where they are, the answer received once."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import httpx
import numpy as np

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
    "durable_step": 1,
    "lr": [0.1],
    "next_lr": [0.1],
    "momentum": None,
    "weight_decay": None,
    "grad_norm": 1.0,
    "loss": None,
    "clipped": False,
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


def test_a_step_holds_one_answer_and_no_copy_of_the_gradients() -> None:
    params = np.arange(ELEMENTS, dtype=np.float32)
    parts = encode(to_tensors({"w": params}), {"receipt": json.dumps(RECEIPT)})
    echo = Echo(parts)
    with gradstep.Client("http://host", transport=echo) as client:
        session = client.sessions.resume("s1")
        tracemalloc.start()
        try:
            stepped = session.step({"w": params})
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert echo.received > params.nbytes
    assert np.array_equal(stepped["w"], params)
    assert peak < params.nbytes + 16 * BLOCK, f"{peak / params.nbytes:.2f} answers"
