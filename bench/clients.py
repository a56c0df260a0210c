"""Small steps from many clients: 1 k parameters by AdamW, a session and a connection for each.

The numbers are the seconds of one request where every client always has one under way; beside them
stands a FastAPI route that does nothing, with as many workers and clients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
from safetensors.numpy import save

import gradstep
from bench.crowd import Request, get, seconds_each
from bench.rows import Progress, Row
from bench.servers import gradstep_server, peer
from bench.steps import OPTIMIZER

ELEMENTS = 1_000
CROWDS = (1, 8, 64)
SERVICES: Mapping[str, tuple[str, int]] = {
    "memory://": ("memory://", 1),
    "SQLite": ("sqlite:///{folder}", 1),
    "SQLite, 2 workers": ("sqlite:///{folder}", 2),
}
"""A store and a number of workers; those cannot share memory."""

EMPTY_TARGET = 1 / 0.5
"""What a step takes of an empty route's time, where nothing is kept on a disk."""

_REQUESTS = 384


def run(progress: Progress) -> list[Row]:
    """Measure every service with every crowd."""
    rounds, requests = (2, 32) if progress.quick else (9, _REQUESTS)
    crowds = CROWDS[:2] if progress.quick else CROWDS
    total = len(SERVICES) * len(crowds)
    rows: list[Row] = []
    for name in SERVICES:
        with _served(name) as (port, empty, client):
            for crowd in crowds:
                progress.show(len(rows), total)
                asked = {
                    "step": (port, [stepping(client) for _ in range(crowd)]),
                    "empty route": (empty, [get("/")] * crowd),
                }
                measured = seconds_each(asked, rounds=rounds, times=requests)
                rows.append(
                    Row.compare(
                        "clients",
                        f"{name}, {crowd} client{'s' if crowd > 1 else ''}",
                        "step",
                        measured,
                        ours="step",
                        others=["empty route"],
                        target=EMPTY_TARGET if name == "memory://" else None,
                    )
                )
    progress.show(total, total)
    return rows


@contextmanager
def _served(name: str) -> Iterator[tuple[int, int, gradstep.Client]]:
    """Run a service and an empty route beside it; yield their ports, and the service's client."""
    store, workers = SERVICES[name]
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory())
        flags = ["--workers", str(workers)]
        service = running.enter_context(gradstep_server(*flags, store=store.format(folder=folder)))
        empty = running.enter_context(peer("empty", str(workers)))
        yield service.port, empty, running.enter_context(service.client())


def stepping(client: gradstep.Client) -> Request:
    """Make a session; return the requests that step it."""
    session = client.sessions.create(
        optimizer=OPTIMIZER, params={"w": np.zeros(ELEMENTS, np.float32)}
    )
    body = save({"w": np.ones(ELEMENTS, np.float32)})
    head = (
        f"/v1/sessions/{session.id}/steps/%d HTTP/1.1\r\nHost: bench\r\n"
        f"Content-Type: application/vnd.safetensors\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lambda n: b"PUT " + (head % n).encode() + body
