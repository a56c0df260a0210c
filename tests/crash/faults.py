"""D1 and D2 under faults: replicas and PostgreSQL end, freeze and lose each other under load."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from crash.connections import Connection
from crash.findings import Finding, evidence, scaled
from crash.replicas import Replicas, replicas
from crash.trainers import Tally, Trainer, training

REPLICAS = 3
EACH = 10
"""How often each kind of fault comes alone."""

FREEZES = 10
"""How often all replicas but one are frozen; every other time PostgreSQL is killed too."""

FROZEN = 30.0
_SHORTEST = 3.0
"""Seconds that a replica is frozen: in full, and at the smallest scale."""

_GIVEN_UP = 60.0
"""Seconds after which a session that is not stepped again is said to be lost."""


def kill_replica(cluster: Replicas, source: random.Random) -> None:
    """Kill a replica and start it again."""
    target = source.choice(cluster.servers)
    target.kill()
    target.start()


def kill_postmaster(cluster: Replicas, source: random.Random) -> None:
    """Kill PostgreSQL's first process, and start it again."""
    cluster.postgres.kill_postmaster()
    time.sleep(source.uniform(0, 1))
    cluster.postgres.start()


def stop_postgres(cluster: Replicas, source: random.Random) -> None:
    """Stop PostgreSQL at once, and start it again."""
    cluster.postgres.stop_at_once()
    time.sleep(source.uniform(0, 1))
    cluster.postgres.start()


def cut_connections(cluster: Replicas, source: random.Random) -> None:
    """Lose answers of PostgreSQL, with the connections that they come by."""
    cluster.proxy.answers_left = source.randint(0, 40)
    time.sleep(0.5)
    cluster.proxy.answers_left = None


KINDS: dict[str, Callable[[Replicas, random.Random], None]] = {
    "replica killed": kill_replica,
    "postmaster killed (-9)": kill_postmaster,
    "PostgreSQL stopped (-m immediate)": stop_postgres,
    "connections cut": cut_connections,
}


class Ordeal:
    """Faults that come one after the other while clients step."""

    def __init__(self, cluster: Replicas, trainers: Sequence[Trainer]) -> None:
        self.count: Counter[str] = Counter()
        """How often each kind of fault has come."""

        self.slowest = 0.0
        """The most seconds from the end of a fault until every session had been stepped."""

        self._cluster = cluster
        self._trainers = trainers
        self._source = random.Random(1)

    def suffer(self, kind: str) -> None:
        """Let a fault come at some moment, and wait until all is well."""
        before = self._stand()
        KINDS[kind](self._cluster, self._source)
        self.count[kind] += 1
        self._recover(before)

    def freeze(self, seconds: float, *, killing: bool) -> None:
        """Freeze all replicas but one, in the middle of whatever they do.

        Args:
            seconds: how long.
            killing: whether PostgreSQL is killed meanwhile, so that they wake to
                connections that are gone. Otherwise those stand still as they do.
        """
        before = self._stand()
        frozen = self._source.sample(self._cluster.servers, REPLICAS - 1)
        until = time.monotonic() + seconds
        for target in frozen:
            target.process.suspend()
        if killing:
            time.sleep(seconds / 2)
            kill_postmaster(self._cluster, self._source)
            self.count["postmaster killed (-9) meanwhile"] += 1
        time.sleep(max(0.0, until - time.monotonic()))
        for target in frozen:
            target.process.resume()
        self.count["replica frozen"] += len(frozen)
        self._recover(before)

    def _stand(self) -> list[int]:
        """Wait for some moment; return the steps that are acknowledged by then."""
        time.sleep(self._source.uniform(0.2, 1.0))
        return [trainer.acknowledged for trainer in self._trainers]

    def _recover(self, before: Sequence[int]) -> None:
        """Wait until every session was stepped; raise if it has lost a step, or cannot be."""
        began = time.monotonic()
        ended = [trainer.acknowledged for trainer in self._trainers]
        for trainer, stood in zip(self._trainers, ended, strict=True):
            while trainer.acknowledged <= stood:
                trainer.check()
                took = time.monotonic() - began
                assert took < _GIVEN_UP, f"{trainer.work.id} is not stepped after {took:.1f} s"
                time.sleep(0.005)
        self.slowest = max(self.slowest, time.monotonic() - began)
        with Connection(self._source.choice(self._cluster.urls)) as connection:
            for trainer, stood in zip(self._trainers, before, strict=True):
                stands = connection.ask("GET", trainer.work.path).json()["step"]
                assert stands >= stood, f"{trainer.work.id} was at {stood}, now at {stands}"


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Let faults come over three replicas on PostgreSQL while four clients step."""
    seconds = max(_SHORTEST, min(1.0, scale) * FROZEN)
    with evidence("faults") as folder, replicas(folder, REPLICAS, behind_proxy=REPLICAS) as cluster:
        with training(cluster) as trainers:
            ordeal = Ordeal(cluster, trainers)
            _go_through(ordeal, scale, seconds, progress)
        tally = Tally()
        for trainer in trainers:
            tally.add(trainer.tally)
        # Where nothing was in the middle of something, nothing is proven.
        assert tally.broken > 0, tally
        assert tally.late_taken + tally.late_replayed > 0, tally
    return [_finding(ordeal, seconds, tally, sum(t.acknowledged for t in trainers))]


def _go_through(
    ordeal: Ordeal, scale: float, seconds: float, progress: Callable[[int, int], None]
) -> None:
    rounds, freezes = scaled(EACH, scale), max(2, scaled(FREEZES, scale))
    total = rounds * len(KINDS) + freezes
    for number in range(rounds):
        for at, kind in enumerate(KINDS):
            ordeal.suffer(kind)
            progress(number * len(KINDS) + at + 1, total)
    for number in range(freezes):
        ordeal.freeze(seconds, killing=number % 2 == 1)
        progress(rounds * len(KINDS) + number + 1, total)


def _finding(ordeal: Ordeal, seconds: float, tally: Tally, steps: int) -> Finding:
    kinds = ", ".join(f"{count} × {kind}" for kind, count in ordeal.count.items())
    return Finding(
        "D1, D2, D3",
        "faults under load",
        f"{ordeal.count.total()} faults while 4 clients stepped sessions with bodies of 1 KB to "
        f"6 MB over {REPLICAS} replicas on one PostgreSQL: {kinds} for {seconds:g} s, 2 at a time",
        f"{steps:,} steps acknowledged, 0 lost, 0 doubled, all replicas bit-identical to "
        f"uninterrupted runs; {tally.broken:,} attempts broken, {tally.refused:,} refused; "
        f"{tally.late} steps were sent elsewhere while a server had them, which later said of "
        f"{tally.late_taken} that it had taken them, of {tally.late_replayed} that another had, "
        f"and of {tally.late_broken} nothing; all sessions stepped again within "
        f"{ordeal.slowest:.1f} s",
    )
