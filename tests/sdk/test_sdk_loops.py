"""A client for asyncio that outlives an event loop, or serves several."""

from __future__ import annotations

import asyncio
import gc
import threading

import numpy as np
import pytest
from server_process import Server

import gradstep
from gradstep import _pool, _wires

pytestmark = pytest.mark.usefixtures("direct")

PATIENCE = 20.0


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # what a closed loop has left open
@pytest.mark.parametrize("available", [True, False], ids=["direct", "httpx"])
def test_a_client_and_its_sessions_go_on_in_another_loop(
    service: Server, monkeypatch: pytest.MonkeyPatch, *, available: bool
) -> None:
    """Also where tasks have waited for each other's connections, which binds to a loop."""
    monkeypatch.setattr(_wires, "AVAILABLE", available)
    monkeypatch.setattr(_pool, "MAX_CONNECTIONS", 2)
    client = gradstep.AsyncClient(service.url, max_retries=0)

    async def created() -> gradstep.AsyncSession:
        params = {"w": np.ones(2)}
        return await client.sessions.create(optimizer={"type": "SGD", "lr": 0.5}, params=params)

    async def step(session: gradstep.AsyncSession) -> list[float]:
        asked = (client.schedulers() for _ in range(6))
        catalogues = asyncio.gather(*asked)
        params = await session.step({"w": np.ones(2)})
        assert all(await catalogues)
        return [float(value) for value in params["w"]]

    session = asyncio.run(created())
    assert [asyncio.run(step(session)) for _ in range(2)] == [[0.5, 0.5], [0.0, 0.0]]
    asyncio.run(client.close())
    gc.collect()


def test_loops_that_run_at_once_do_not_wait_for_each_others_places(
    service: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "MAX_CONNECTIONS", 2)
    client = gradstep.AsyncClient(service.url, max_retries=0)
    both = threading.Barrier(2, timeout=PATIENCE)
    found: list[int] = []

    async def ask() -> None:
        both.wait()
        for _ in range(5):
            answers = await asyncio.gather(*(client.schedulers() for _ in range(8)))
            found.extend(map(len, answers))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    asyncio.run(client.close())
    assert len(found) == 80
    assert len(set(found)) == 1
