"""The SDK over a real connection: uvicorn on the loopback."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn

import gradstep
from gradstep import _retry
from gradstep_server.app import create_app
from gradstep_server.settings import Settings

pytestmark = pytest.mark.usefixtures("direct")

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"


class Running:
    """A server in a thread, its port chosen by the system."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        app = create_app(Settings(store="memory://", threads=1))
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Running:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running().start()
    yield running
    running.stop()


def large() -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    random = np.random.default_rng(0)
    return {f"layer.{i}": random.normal(size=700_000).astype(np.float32) for i in range(3)}


def test_a_large_step_goes_both_ways(server: Running) -> None:
    start = large()
    with gradstep.Client(server.address) as client:
        session = client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=start)
        stepped = session.step(start)
        assert all(not array.any() for array in stepped.values())
        assert stepped.keys() == start.keys()


def test_sessions_step_side_by_side_in_one_event_loop(server: Running) -> None:
    async def run(client: gradstep.AsyncClient, seed: float) -> float:
        params = {"w": np.full(5, seed)}
        session = await client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params=params)
        for _ in range(5):
            params = await session.step({"w": np.ones(5)})
        return float(params["w"][0])

    async def main() -> list[float]:
        async with gradstep.AsyncClient(server.address) as client:
            return await asyncio.gather(*(run(client, float(seed)) for seed in range(8)))

    assert asyncio.run(main()) == [seed - 5.0 for seed in range(8)]


def test_threads_share_a_client(server: Running) -> None:
    found: dict[int, int] = {}
    with gradstep.Client(server.address) as client:

        def run(seed: int) -> None:
            session = client.sessions.create(optimizer="SGD", params={"w": np.ones(10)})
            for _ in range(5):
                session.step({"w": np.ones(10)})
            found[seed] = session.position

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys(range(4), 5)


def test_a_server_that_comes_back_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retry, "BASE_SECONDS", 0.2)
    first = Running().start()
    with gradstep.Client(first.address, max_retries=20) as client:
        kinds = client.optimizers()
        first.stop()
        second = Running(first.port)
        later = threading.Timer(0.3, second.start)
        later.start()
        try:
            assert client.optimizers() == kinds
        finally:
            later.join()
            second.stop()


def test_nobody_there_is_a_failed_connection() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with (
            gradstep.Client(address, max_retries=0) as client,
            pytest.raises(gradstep.ConnectionFailed, match="ConnectError at attempt 1"),
        ):
            client.optimizers()


def test_a_silent_server_is_a_failed_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            gradstep.Client(address, timeout=0.05, max_retries=0) as client,
            pytest.raises(gradstep.ConnectionFailed, match="ReadTimeout at attempt 1"),
        ):
            client.optimizers()


def test_the_readme_does_what_it_says(server: Running) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 6
    program = "\n".join(blocks).replace("http://127.0.0.1:8000", server.address)
    namespace: dict[str, object] = {}
    exec(compile(program, str(README), "exec"), namespace)  # noqa: S102 - the readme is the test
    assert isinstance(namespace["session"], gradstep.Session)
