"""D4 under many writers: of different gradients for one position exactly one set wins."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

from crash.connections import Answer, Connection
from crash.findings import Finding, evidence, scaled
from crash.replicas import replicas
from crash.workloads import Workload, prove, send_step, uninterrupted
from session_app import Arrays, file, gradients

RACERS = 64
POSITIONS = 2_000
_TRIES = 30
"""How often a racer that is asked to come back later does so."""

_SHAPES = {"w": (16, 8), "b": (8,)}
WORK = Workload("race", seed=0)


class Racer:
    """A client with gradients of its own, and a connection to each replica."""

    def __init__(self, number: int, urls: list[str]) -> None:
        self.number = number
        self.delayed = 0
        """How often it was asked to come back later."""

        self._connections = [Connection(url) for url in urls]

    def gradients(self, n: int) -> Arrays:
        """Return what this racer alone would make of step n."""
        return gradients(RACERS * n + self.number, **_SHAPES)

    def replica(self, n: int) -> int:
        """Return which replica this racer sends step n to."""
        return (self.number + n) % len(self._connections)

    def race(self, n: int) -> Answer:
        """Send step n until it is decided."""
        connection = self._connections[self.replica(n)]
        for _ in range(_TRIES):
            send_step(connection, WORK.path, n, file(self.gradients(n)))
            answer = connection.receive()
            if answer.status != 503:
                return answer
            self.delayed += 1
            time.sleep(float(answer.headers["Retry-After"]))
        raise AssertionError(f"step {n} was put off {_TRIES} times: {answer.content!r}")

    def close(self) -> None:
        """Let go of the connections."""
        for connection in self._connections:
            connection.close()


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Let all racers send every position at once, over two replicas on PostgreSQL."""
    positions = scaled(POSITIONS, scale)
    with evidence("racers") as folder, replicas(folder, 2) as cluster, ExitStack() as closing:
        racers = [Racer(number, cluster.urls) for number in range(RACERS)]
        for racer in racers:
            closing.callback(racer.close)
        with Connection(cluster.urls[0]) as creator:
            WORK.create(creator)
        winners = _race(racers, positions, progress)
        taken = (winner.gradients(n) for n, winner in enumerate(winners, 1))
        expected = uninterrupted(WORK.gradients(0), taken)
        prove(WORK.path, expected, positions, cluster.urls)
    return [_finding(racers, winners)]


def _race(racers: list[Racer], positions: int, progress: Callable[[int, int], None]) -> list[Racer]:
    """Return the winner of each position."""
    order = random.Random(1)
    winners = []
    with ThreadPoolExecutor(RACERS) as pool:
        for n in range(1, positions + 1):
            at_the_line = order.sample(racers, RACERS)
            answers = list(pool.map(partial(Racer.race, n=n), at_the_line))
            winners.append(_winner(n, at_the_line, answers))
            progress(n, positions)
    return winners


def _winner(n: int, racers: list[Racer], answers: list[Answer]) -> Racer:
    """Return the only racer that took step n; raise unless all others were told what is next."""
    taken = [racer for racer, answer in zip(racers, answers, strict=True) if answer.status == 201]
    assert len(taken) == 1, f"{len(taken)} racers took step {n}: {_tally(answers)}"
    for answer in answers:
        if answer.status != 201:
            assert answer.status == 409, f"step {n}: {answer.status} {answer.content!r}"
            problem = answer.json()
            told = (problem["code"], problem["expected"])
            assert told == ("step-conflict", n + 1), f"step {n} is decided: {problem}"
    return taken[0]


def _tally(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def _finding(racers: list[Racer], winners: list[Racer]) -> Finding:
    through = Counter(winner.replica(n) for n, winner in enumerate(winners, 1))
    shares = " and ".join(f"{count:,}" for _, count in sorted(through.items()))
    delayed = sum(racer.delayed for racer in racers)
    return Finding(
        "D2, D4",
        "racers over replicas",
        f"{RACERS} racers, each with gradients of its own for each of {len(winners):,} positions "
        "of one session, all sent at the same time, half of them through each of 2 replicas on "
        f"one PostgreSQL ({RACERS * len(winners):,} requests, {delayed:,} asked to come later)",
        f"exactly one 201 per position ({shares} through the replicas, "
        f"{len(set(winners))} racers among the winners), all others 409 with the next position; "
        "both replicas bit-identical to the winners' gradients in order",
    )
