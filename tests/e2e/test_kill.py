"""A server that is killed loses no acknowledged step and doubles none."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from server_process import Server, server
from session_app import ADAMW, SAFETENSORS, file, gradients, read_file, running, same

CYCLES = 10
SHAPES = {"w": (64, 256), "b": (64,)}
CONFIG = {
    "optimizer": ADAMW,
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 200},
    "clip": {"type": "norm", "max_norm": 1.0},
}
PATCH_AT = 20
"""The step before which every client changes a hyperparameter."""


def _gradients(client: int, n: int) -> bytes:
    return file(gradients(1000 * client + n, **SHAPES))


class Trainer(threading.Thread):
    """A client that steps its own session, and sends again whatever was not answered."""

    def __init__(self, number: int, target: Server) -> None:
        super().__init__(daemon=True)
        self.path = f"/v1/sessions/client-{number}"
        self.number = number
        self.acknowledged = 0
        self.enough = threading.Event()
        self.failure: str | None = None
        self._server = target
        self._http = httpx.Client(timeout=30)

    def run(self) -> None:
        """Create the session and step until told to stop."""
        start = gradients(self.number, **SHAPES)
        self._send("PUT", "", json=CONFIG)
        self._send("PUT", "/params", content=file(start), headers=SAFETENSORS)
        while not self.enough.is_set() and self.failure is None:
            n = self.acknowledged + 1
            if n == PATCH_AT:
                self._send("PATCH", "", json={"lr": 0.02}, headers={"If-Match": f'"1-{n}"'})
            content = _gradients(self.number, n)
            self._send("PUT", f"/steps/{n}", content=content, headers=SAFETENSORS)
            self.acknowledged = n

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **options: Any) -> None:
        """Send until there is an answer, wherever the server is by then."""
        while True:
            try:
                answer = self._http.request(
                    method, f"{self._server.url}{self.path}{path}", **options
                )
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            if answer.status_code not in {200, 201}:
                self.failure = f"{method} {path}: {answer.status_code} {answer.text}"
            return


def _uninterrupted(number: int, steps: int) -> tuple[Any, dict[str, str]]:
    """Return the state after the same steps in memory, without a retry."""
    with running() as service:
        path = service.session("reference", **CONFIG)
        start = file(gradients(number, **SHAPES))
        service.put(f"{path}/params", content=start, headers=SAFETENSORS)
        for n in range(1, steps + 1):
            if n == PATCH_AT:
                service.patch(path, json={"lr": 0.02})
            body = _gradients(number, n)
            answer = service.put(f"{path}/steps/{n}", content=body, headers=SAFETENSORS)
            assert answer.status_code == 201
        return read_file(service.get(f"{path}/state").content)


def test_a_server_that_is_killed_again_and_again_goes_on_bit_for_bit(tmp_path: Path) -> None:
    moments = random.Random(1)
    with server(tmp_path / "data") as target:
        clients = [Trainer(number, target) for number in (1, 2)]
        for client in clients:
            client.start()
        for _ in range(CYCLES):
            time.sleep(moments.uniform(0.1, 0.6))
            before = [client.acknowledged for client in clients]
            target.kill()
            target.start()
            for client, acknowledged in zip(clients, before, strict=True):
                if acknowledged:
                    shown = httpx.get(f"{target.url}{client.path}").json()
                    assert shown["step"] >= acknowledged
        for client in clients:
            client.enough.set()
            client.join(30)
            client.close()
            assert client.failure is None
            assert client.acknowledged > PATCH_AT
            shown = httpx.get(f"{target.url}{client.path}").json()
            assert shown["step"] == client.acknowledged
            tensors, facts = read_file(httpx.get(f"{target.url}{client.path}/state").content)
            expected, expected_facts = _uninterrupted(client.number, client.acknowledged)
            assert same(tensors, expected)
            assert facts == expected_facts
