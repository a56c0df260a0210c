"""What it costs that a step is on the disk before it is acknowledged: the SDK's step by AdamW.

*sync* is ``pwrite`` and ``fdatasync`` of a gradient's bytes into a file that has its size already,
on the disk that the stores are on: where temporary files are, so ``TMPDIR`` chooses it. Each call
is a round of its own here, so that the brackets tell how calls differ. *PostgreSQL* 18 runs as it
is set when it is installed, ``fsync`` and ``synchronous_commit`` on, on the same disk; the service
reaches it over a Unix socket.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from postgres_server import PostgresServer

import gradstep
from bench.rows import Progress, Row
from bench.servers import gradstep_server
from bench.steps import MEMORY, Durability, fresh
from bench.turns import turn_about

_K, _M = 1_000, 1_000_000

SIZES: Mapping[str, tuple[int, int]] = {"1 k": (_K, 200), "1 M": (_M, 100)}
"""Elements and rounds."""

_QUICK: Mapping[str, tuple[int, int]] = {"1 k": (_K, 5), "100 k": (100 * _K, 3)}

LARGE_TARGET, SMALL_TARGET = 1.0, 1 / 0.6
_LEAST = "memory:// + 2 × sync"


def run(progress: Progress) -> list[Row]:
    """Measure every size on every store."""
    sizes = _QUICK if progress.quick else SIZES
    rows: list[Row] = []
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        clients = {
            name: running.enter_context(running.enter_context(gradstep_server(store=url)).client())
            for name, url in {
                "memory://": "memory://",
                "SQLite": f"sqlite:///{folder}/data",
                "PostgreSQL": running.enter_context(_postgres()),
            }.items()
        }
        for done, (label, size) in enumerate(sizes.items()):
            progress.show(done, len(sizes))
            rows += _rows(label, size, clients, folder)
    progress.show(len(sizes), len(sizes))
    return rows


def _rows(
    label: str, size: tuple[int, int], clients: Mapping[str, gradstep.Client], folder: Path
) -> list[Row]:
    elements, rounds = size
    gradients = {"w": np.random.default_rng(1).standard_normal(elements, np.float32)}
    with ExitStack() as running:

        def steps(client: gradstep.Client, durability: Durability) -> Callable[[], object]:
            session = running.enter_context(fresh(client, elements, durability=durability))
            return lambda: session.step(gradients)

        things = {name: steps(client, "step") for name, client in clients.items()}
        for name in ("SQLite", "PostgreSQL"):
            things[f"{name}, relaxed"] = steps(clients[name], "relaxed")
        things["sync"] = running.enter_context(
            synced(folder / "file", gradients["w"].data.cast("B"))
        )
        measured = turn_about(things, rounds=rounds, calls=1, memory=MEMORY * elements)
    pairs = zip(measured["memory://"], measured["sync"], strict=True)
    measured[_LEAST] = [step + 2 * sync for step, sync in pairs]

    def row(what: str, others: list[str], target: float | None = None) -> Row:
        return Row.compare(
            "durability", label, what, measured, ours=what, others=others, target=target
        )

    beside = [_LEAST, "sync", "memory://"]
    return [
        row("SQLite", beside, LARGE_TARGET)
        if elements > _K
        else row("SQLite", ["sync", "memory://"], SMALL_TARGET),
        row("SQLite, relaxed", ["memory://"]),
        row("PostgreSQL", beside),
        row("PostgreSQL, relaxed", ["memory://"]),
    ]


@contextmanager
def synced(path: Path, content: memoryview) -> Iterator[Callable[[], None]]:
    """Yield what writes the content into a file, and waits until the disk has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def write() -> None:
        os.pwrite(file, content, 0)
        os.fdatasync(file)

    try:
        write()
        yield write
    finally:
        os.close(file)
        path.unlink()


@contextmanager
def _postgres() -> Iterator[str]:
    """Run a PostgreSQL server; yield the address of a database."""
    server = PostgresServer()
    try:
        server.start()
        yield server.database()
    finally:
        server.close()
