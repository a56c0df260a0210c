"""D2 under duplicates: a step that is sent again, also elsewhere, also at once, is taken once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from crash.connections import Answer, Connection
from crash.findings import Finding, evidence, scaled
from crash.replicas import replicas
from crash.workloads import Workload

STEPS = 100_000
SESSIONS = 4
SHARE = 0.2
"""The part of the steps that is sent twice."""

_BEHIND = 3
"""How many steps a late duplicate lies behind at most."""

Route = tuple[Connection, Connection]
"""Two ways to the same sessions, through two processes."""


@dataclass
class Sent:
    """What has been sent so far, counted while it goes on."""

    steps: int = 0
    together: int = 0
    """Steps that were sent through both processes at the same time."""

    again: int = 0
    """Steps that were sent again through the other process, after their answer."""

    @property
    def duplicates(self) -> int:
        """How many steps were sent twice."""
        return self.together + self.again


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Send duplicates over two replicas on PostgreSQL."""
    works = [Workload(f"duplicates-{number}", number) for number in range(1, SESSIONS + 1)]
    steps = scaled(STEPS // SESSIONS, scale)
    with evidence("duplicates") as folder, replicas(folder, 2) as cluster:
        sent, seconds = drive(works, steps, lambda: routes(cluster.urls), progress)
        for work in works:
            work.prove(steps, cluster.urls)
    return [
        Finding(
            "D2",
            "duplicates over replicas",
            f"{len(works) * steps:,} steps of {len(works)} sessions in parallel, each through the "
            "other of 2 replicas on one PostgreSQL than the step before; "
            f"{told(sent)}",
            "every position taken once and in order, all "
            f"{sent.duplicates:,} duplicates flagged as replayed, both replicas bit-identical to "
            f"an uninterrupted run; {len(works) * steps / seconds:,.0f} steps/s",
        )
    ]


def told(sent: Sent) -> str:
    """Say which duplicates were sent."""
    return (
        f"{sent.duplicates:,} sent twice: {sent.together:,} through both at the same time, "
        f"{sent.again:,} again through the other, up to {_BEHIND} steps later"
    )


def routes(urls: Sequence[str]) -> Route:
    """Return a connection to each of two servers."""
    first, second = urls
    return Connection(first), Connection(second)


def drive(
    works: Sequence[Workload],
    steps: int,
    connect: Callable[[], Route],
    progress: Callable[[int, int], None],
) -> tuple[Sent, float]:
    """Step sessions in parallel with duplicates; return what was sent, and in how many seconds."""
    counts = [Sent() for _ in works]
    began = time.monotonic()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [
            pool.submit(_step_through, work, steps, connect(), sent)
            for work, sent in zip(works, counts, strict=True)
        ]
        _watch(running, counts, steps * len(works), progress)
    seconds = time.monotonic() - began
    together, again = (sum(getattr(s, name) for s in counts) for name in ("together", "again"))
    return Sent(steps * len(works), together, again), seconds


def _watch(
    running: Sequence[Future[None]],
    counts: Sequence[Sent],
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    waiting = set(running)
    while waiting:
        ended, waiting = wait(waiting, timeout=1)
        for future in ended:
            future.result()
        progress(sum(sent.steps for sent in counts), total)


def _step_through(work: Workload, steps: int, route: Route, sent: Sent) -> None:
    """Take every step, some of them twice; raise where an answer is not what was promised."""
    source = random.Random(work.seed)
    with route[0], route[1]:
        work.create(route[0])
        for n in range(1, steps + 1):
            here, there = route[n % 2], route[1 - n % 2]
            chance = source.random()
            if chance < SHARE / 2:
                work.send_step(here, n)
                work.send_step(there, n)
                _expect_one(n, here.receive(), there.receive())
                sent.together += 1
            else:
                work.send_step(here, n)
                _expect(n, n, here.receive(), replayed=False)
            if SHARE / 2 <= chance < SHARE:
                old = source.randint(max(1, n - _BEHIND), n)
                work.send_step(there, old)
                _expect(old, n, there.receive(), replayed=True)
                sent.again += 1
            sent.steps = n


def _expect_one(n: int, first: Answer, second: Answer) -> None:
    """Raise unless one of two answers says that it took step n, and the other that it saw it."""
    taken, seen = sorted((first, second), key=lambda answer: -answer.status)
    _expect(n, n, taken, replayed=False)
    _expect(n, n, seen, replayed=True)


def _expect(n: int, position: int, answer: Answer, *, replayed: bool) -> None:
    status = 200 if replayed else 201
    assert answer.status == status, f"step {n}: {answer.status} {answer.content!r}, not {status}"
    receipt = answer.json()
    found = (receipt["step"], receipt["position"], receipt["replayed"])
    assert found == (n, position, replayed), f"step {n} at {position}: {receipt}"
