"""D2 over workers: two processes on the same SQLite files take each step once."""

from __future__ import annotations

from collections.abc import Callable

from crash.connections import Connection
from crash.duplicates import SESSIONS, Route, drive, told
from crash.findings import Finding, evidence, scaled
from crash.workloads import Workload
from server_process import Server, server

STEPS = 5_000
_TRIES = 100
"""After how many connections both workers have accepted one: either does, at random."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Send duplicates over two workers on SQLite."""
    works = [Workload(f"workers-{number}", 10 + number) for number in range(1, SESSIONS + 1)]
    steps = scaled(STEPS // SESSIONS, scale)
    with evidence("workers") as folder, server(folder / "data", "--workers", "2") as target:
        sent, seconds = drive(works, steps, lambda: _both_workers(target), progress)
        for work in works:
            work.prove(steps, [target.url])
    return [
        Finding(
            "D2",
            "duplicates over workers",
            f"{len(works) * steps:,} steps of {len(works)} sessions in parallel, each through the "
            "other of 2 workers (`--workers 2`) on one SQLite store than the step before; "
            f"{told(sent)}",
            f"every position taken once and in order, all {sent.duplicates:,} duplicates flagged "
            "as replayed, bit-identical to an uninterrupted run; "
            f"{len(works) * steps / seconds:,.0f} steps/s",
        )
    ]


def _both_workers(target: Server) -> Route:
    """Return two connections that different workers have accepted."""
    first = _connected(target)
    for _ in range(_TRIES):
        second = _connected(target)
        if _worker_of(target, first) != _worker_of(target, second):
            return first, second
        second.close()
    raise AssertionError(f"one worker has accepted {_TRIES} connections, and the other none")


def _connected(target: Server) -> Connection:
    connection = Connection(target.url)
    assert connection.ask("GET", "/livez").status == 200
    return connection


def _worker_of(target: Server, connection: Connection) -> int:
    """Return the process that has accepted a connection."""
    port = connection.local_port()
    for worker in target.process.children(recursive=True):
        if any(end.raddr and end.raddr.port == port for end in worker.net_connections("tcp")):
            pid: int = worker.pid
            return pid
    raise AssertionError("no worker has accepted the connection")
