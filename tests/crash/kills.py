"""``kill -9`` at random instants, while clients step.

The server is killed while requests are under way, again and again, sometimes
while it starts. Its clients send again what was not answered. After every start
no acknowledged step may be missing and no session may be between two steps; in
the end every session is what the same steps lead to in memory, bit for bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import httpx
from crash.clients import Client, Heavy, Owner, Racer, Winners
from crash.findings import Finding, evidence, scaled
from crash.forked_servers import ForkedServer, Nursery, forked
from crash.plans import KB, MB, Plan, Truth, one_tensor, position, state
from session_app import Service, running

CYCLES = 600
CUT_EVERY = 10
"""Every so manieth start is itself cut off by a kill."""

HEAVY_EVERY = 25
"""In every so manieth cycle a step of 64 MB is begun."""

_SIZES = {"a": KB, "b": 256 * KB, "c": 4 * MB}
_UP_TO = ("a", "b", "b", "c")
"""The largest tensor of each client's own session."""

_DELAY = 0.6
_HEAVY_DELAY = 2.0
"""Seconds within which the server is killed, when it is ready and has been looked at."""

_START = 0.3
"""Seconds that a start takes, about."""

_SHARED = Plan("shared", {"a": KB}, lambda _: "a")


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Kill a server that four clients write to, and a fifth that sends 64 MB at a time."""
    cycles = scaled(CYCLES, scale)
    with (
        evidence("kills") as folder,
        Nursery() as nursery,
        forked(nursery, folder / "data") as target,
        running() as memory,
    ):
        crew = Crew(target, memory)
        moments = random.Random(1)
        cut = 0
        for cycle in range(1, cycles + 1):
            crew.heavy.allowed = cycle // HEAVY_EVERY + 1
            time.sleep(moments.uniform(0, _HEAVY_DELAY if crew.heavy.busy else _DELAY))
            acknowledged = crew.acknowledged()
            target.kill()
            if cycle % CUT_EVERY == 0:
                target.launch()
                time.sleep(moments.uniform(0, _START))
                target.kill()
                cut += 1
            target.start()
            crew.check(acknowledged, cycle % len(crew.owners))
            progress(cycle, cycles)
        return _findings(crew, cycles + cut, cut, crew.end())


class Crew:
    """Four clients with a session each and one in common, a fifth with a large one, the truth."""

    def __init__(self, target: ForkedServer, memory: Service) -> None:
        self._target = target
        self._memory = memory
        self.owners = [Owner(_plan(number, largest)) for number, largest in enumerate(_UP_TO)]
        self.heavy = Heavy(one_tensor("heavy", 64 * MB))
        self.winners = Winners()
        self.racers = [Racer(_SHARED, writer, self.winners) for writer in range(len(self.owners))]
        pairs = zip(self.owners, self.racers, strict=True)
        self.clients = [Client(target, roles) for roles in (*pairs, (self.heavy,))]
        self._truths = [Truth(memory, owner.plan) for owner in self.owners]
        for client in self.clients:
            client.start()

    def acknowledged(self) -> list[int]:
        """Return the step of each owner's session that was acknowledged last."""
        return [owner.acknowledged for owner in self.owners]

    def check(self, acknowledged: Sequence[int], chosen: int) -> None:
        """Raise unless all acknowledged steps are there, and the chosen session is whole."""
        for client in self.clients:
            client.check()
        with httpx.Client(base_url=self._target.url, timeout=60) as http:
            for owner, least in zip(self.owners, acknowledged, strict=True):
                if least:
                    shown = http.get(owner.plan.path).json()["step"]
                    lost = f"{owner.plan.id} stands at {shown}, step {least} was acknowledged"
                    assert shown >= least, lost
            if acknowledged[chosen]:
                found, owner = state(http, self.owners[chosen].plan), self.owners[chosen]
                assert position(found) <= owner.acknowledged + 1, "a step that was not sent"
                assert self._truths[chosen].agrees(found), f"{owner.plan.id} is between two steps"

    def end(self) -> int:
        """See every last answer, and compare all sessions with the truth; return the steps."""
        for client in self.clients:
            client.end()
        taken = [owner.acknowledged for owner in (*self.owners, self.heavy)]
        plans = [owner.plan for owner in (*self.owners, self.heavy)]
        truths = [*self._truths, Truth(self._memory, self.heavy.plan)]
        won = self.winners.of
        assert sorted(won) == list(range(1, len(won) + 1)), "a step of the shared session is lost"
        truths.append(Truth(self._memory, _SHARED, won))
        with httpx.Client(base_url=self._target.url, timeout=60) as http:
            for plan, steps, truth in zip(
                [*plans, _SHARED], [*taken, len(won)], truths, strict=True
            ):
                found = state(http, plan)
                assert position(found) == steps, (
                    f"{plan.id} is at {position(found)}, not at {steps}"
                )
                assert truth.agrees(found), f"{plan.id} is not what {steps} steps lead to"
        return sum(taken) + len(won)


def _findings(crew: Crew, kills: int, cut: int, steps: int) -> list[Finding]:
    resent = sum(client.line.resent for client in crew.clients)
    replayed = sum(client.line.replayed for client in crew.clients)
    lost = sum(racer.lost for racer in crew.racers)
    did = (
        f"{kills} × kill -9 of the server, {cut} of them while it started, under 4 clients, "
        f"each on a session of its own (bodies of 1 KB to 4 MB) and on one that all write "
        f"to, and a fifth that sent {crew.heavy.acknowledged} × 64 MB; {steps} steps"
    )
    return [
        Finding(
            "D1, D2, D3",
            "kill -9 under load",
            did,
            f"0 acknowledged steps lost, 0 half steps after any start; {resent} requests were "
            f"sent again, {replayed} of them had been carried out; all 6 sessions "
            "bit-identical to the same steps in memory",
        ),
        Finding(
            "D4",
            "four writers, kill -9",
            f"4 clients raced for {len(crew.winners.of)} steps of one session, each with "
            "gradients of its own, through the same kills",
            f"one winner each; {lost} times 409 step-conflict with the position to send",
        ),
    ]


def _plan(number: int, largest: str) -> Plan:
    sizes = {name: size for name, size in _SIZES.items() if name <= largest}

    def chosen(n: int) -> str:
        return min(largest, "c" if n % 20 == 0 else "b" if n % 5 == 0 else "a")

    return Plan(f"client-{number}", sizes, chosen, changed_every=50)
