"""How soon a session with 100 MB of state is stepped again after each kind of fault, under load."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial

from crash.connections import FAILURES, Connection
from crash.faults import cut_connections, kill_postmaster, stop_postgres
from crash.findings import Finding, evidence, scaled
from crash.replicas import Replicas, replicas
from crash.trainers import PATIENCE, training
from crash.workloads import Held, Workload, prove, uninterrupted
from server_process import Server

EACH = 3
"""How often each kind of fault comes."""

ELEMENTS = 8_333_328
"""Parameters; with AdamW's two moments they are 100 MB of state."""

_FEWER = ELEMENTS // 8 // 10 * 8
"""Parameters at scales that are to take seconds."""

RECOVERED = 10.0
"""Seconds within which a session of the full size is stepped again."""

_FULL_SIZE_FROM = 0.1
_STEPS = 24
"""Steps before the fault. A snapshot is taken after 12 and after 25, when the log is
longer than four times the state, so that there is as much as ever to replay."""

_WITHIN = 0.1
"""Seconds after which a fault comes at most, when the last byte of a step was sent."""

_GIVEN_UP = 60.0

_DIRECT, _OTHER, _DETOUR = range(3)
"""The servers; the last one reaches the database through the proxy."""


@dataclass(frozen=True)
class Recovered:
    """The end of a recovery: an acknowledged step."""

    since: str
    """What had happened, and from when on it is measured."""

    seconds: float
    replayed: bool
    """Whether the step had been taken before the fault, after all."""


@dataclass(frozen=True)
class Case:
    """A session that a server is taking a step of."""

    cluster: Replicas
    work: Workload
    target: Server
    late: Connection
    """Where the server's answer to the step would come."""

    source: random.Random


def after_a_kill(case: Case) -> Iterator[Recovered]:
    """Kill the replica, start it again, and send the step to it again."""
    before = case.target.url
    case.target.kill()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(case.target.start)
        while case.target.url in {"", before} and not starting.done():
            time.sleep(0.005)
        taken = _until_taken("a replica was killed: since it listens again", case)
        starting.result()
    yield taken


def after_a_freeze(case: Case) -> Iterator[Recovered]:
    """Freeze the replica, send the step to another, then wake the first and step on there."""
    case.target.process.suspend()
    time.sleep(PATIENCE)
    other = case.cluster.servers[_OTHER]
    yield _until_taken("a replica was frozen: since the step was sent to another", case, other)
    case.target.process.resume()
    answer = case.late.receive()
    assert answer.status in {200, 201}, f"{answer.status} {answer.content!r}"
    yield _until_taken("a replica was frozen: since it went on", case, n=_STEPS + 2)


def after_an_end(
    end: Callable[[Replicas, random.Random], None], since: str, case: Case
) -> Iterator[Recovered]:
    """End PostgreSQL, or the connections to it, and send the step again."""
    end(case.cluster, case.source)
    yield _until_taken(since, case)


KINDS: tuple[tuple[Callable[[Case], Iterator[Recovered]], int], ...] = (
    (after_a_kill, _DIRECT),
    (after_a_freeze, _DIRECT),
    (partial(after_an_end, kill_postmaster, "postmaster killed (-9): since it accepts"), _DIRECT),
    (partial(after_an_end, stop_postgres, "PostgreSQL stopped: since it accepts"), _DIRECT),
    (partial(after_an_end, cut_connections, "connections cut: since they can be made"), _DETOUR),
)
"""What happens, and to which server."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Measure recoveries over three replicas on PostgreSQL while four clients step."""
    elements = ELEMENTS if scale >= _FULL_SIZE_FROM else _FEWER
    source = random.Random(1)
    recoveries: list[Recovered] = []
    rounds = scaled(EACH, scale)
    with (
        evidence("recovery") as folder,
        replicas(folder, 3, behind_proxy=1) as cluster,
        training(cluster) as trainers,
    ):
        for number in range(rounds * len(KINDS)):
            kind, at = KINDS[number % len(KINDS)]
            work = Workload(f"recovered-{number}", 9, elements=elements, distinct=2)
            with _in_a_step(cluster, work, cluster.servers[at], source) as case:
                recoveries += kind(case)
            _prove_and_delete(work, (cluster.servers[at].url, cluster.servers[_OTHER].url))
            progress(number + 1, rounds * len(KINDS))
        slowest = max(recoveries, key=lambda recovered: recovered.seconds)
        assert slowest.seconds <= RECOVERED or elements < ELEMENTS, f"it took too long: {slowest}"
    return [_finding(elements, recoveries, sum(t.acknowledged for t in trainers))]


@contextmanager
def _in_a_step(
    cluster: Replicas, work: Workload, target: Server, source: random.Random
) -> Iterator[Case]:
    """Bring a session to where its log is longest, and begin the next step."""
    with Connection(target.url) as connection:
        work.create(connection)
        for n in range(1, _STEPS + 1):
            work.send_step(connection, n)
            answer = connection.receive()
            assert answer.status == 201, f"{answer.status} {answer.content!r}"
        work.send_step(connection, _STEPS + 1)
        time.sleep(source.uniform(0, _WITHIN))
        yield Case(cluster, work, target, connection, source)


def _until_taken(
    since: str, case: Case, target: Server | None = None, n: int = _STEPS + 1
) -> Recovered:
    """Send step n until it is acknowledged, by the server that was struck or another."""
    url = (target or case.target).url
    began = time.monotonic()
    while True:
        answer = None
        with Connection(url) as connection, suppress(*FAILURES):
            case.work.send_step(connection, n)
            answer = connection.receive()
        took = time.monotonic() - began
        if answer is not None and answer.status != 503:
            assert answer.status in {200, 201}, f"{answer.status} {answer.content!r}"
            return Recovered(since, took, answer.status == 200)
        told = "no answer" if answer is None else f"{answer.status} {answer.content[:300]!r}"
        assert took < _GIVEN_UP, f"{since}: step {n} is not taken after {took:.0f} s: {told}"
        time.sleep(0.05)


def _prove_and_delete(work: Workload, urls: tuple[str, str]) -> None:
    """Raise unless both replicas have each step once; then make room."""
    with Connection(urls[0]) as connection:
        steps: int = connection.ask("GET", work.path).json()["step"]
    assert steps in {_STEPS + 1, _STEPS + 2}, f"{work.path} is at {steps}"
    prove(work.path, _expected(work.elements, steps), steps, urls)
    with Connection(urls[0]) as connection:
        assert connection.ask("DELETE", work.path).status == 204


@cache
def _expected(elements: int, steps: int) -> Held:
    work = Workload("recovered", 9, elements=elements, distinct=2)
    return uninterrupted(work.gradients(0), (work.gradients(n) for n in range(1, steps + 1)))


def _finding(elements: int, recoveries: list[Recovered], steps: int) -> Finding:
    megabytes = 12 * elements / 1e6
    worst: dict[str, float] = {}
    for recovered in recoveries:
        worst[recovered.since] = max(recovered.seconds, worst.get(recovered.since, 0.0))
    slowest = "; ".join(f"{since} {seconds:.1f} s" for since, seconds in worst.items())
    return Finding(
        "D1, D2",
        "recovery",
        f"{len(recoveries)} recoveries of a session with {megabytes:,.0f} MB of state, a snapshot "
        f"and {12 * megabytes / 3:,.0f} MB of log to replay, struck while it took a step, while 4 "
        f"clients took {steps:,} steps of other sessions with bodies of 1 KB to 6 MB through 3 "
        "replicas on one PostgreSQL",
        f"0 steps lost, 0 doubled ({sum(r.replayed for r in recoveries)} had been taken before the "
        f"fault), bit-identical; until a step was acknowledged at most: {slowest}",
    )
