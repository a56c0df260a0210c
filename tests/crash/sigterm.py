"""SIGTERM at random instants, while clients step and snapshots are written.

The server is asked to end while requests are under way, again and again; now and
then while a client has stopped in the middle of a body, so that it cannot simply
wait for the last answer. It has to be gone in time, and what it has
acknowledged must be there when it starts again, as after a kill. And where a kill
may break an answer off, here every request that arrived whole has to be answered.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import urlsplit

from crash.findings import Finding, evidence, scaled
from crash.forked_servers import Nursery, forked
from crash.kills import Crew
from server_process import Server
from session_app import running

ROUNDS = 50
IN_TIME = 10.0
"""Seconds within which a server that is asked to end has ended."""

STALLED_EVERY = 10
"""In every so manieth round a client has stopped in the middle of a body."""

HEAVY_EVERY = 2
_DELAY = 0.8
_HEAVY_DELAY = 2.0
_SNAPSHOTS = ("--snapshot-steps", "2")
"""So that one is under way most of the time, of 192 MB for the heavy session."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Ask a server to end under four clients, a fifth that sends 64 MB, and a stalled one."""
    rounds = scaled(ROUNDS, scale)
    with (
        evidence("sigterm") as folder,
        Nursery() as nursery,
        forked(nursery, folder / "data", *_SNAPSHOTS) as target,
        running() as memory,
    ):
        crew = Crew(target, memory)
        moments = random.Random(2)
        took: list[float] = []
        with_stalled = 0
        for number in range(1, rounds + 1):
            crew.heavy.allowed = number // HEAVY_EVERY + 1
            stalled = number % STALLED_EVERY == 0
            with_stalled += stalled
            path = crew.owners[0].plan.path
            with stalled_body(target, path) if stalled else nullcontext():
                time.sleep(moments.uniform(0, _HEAVY_DELAY if crew.heavy.busy else _DELAY))
                acknowledged = crew.acknowledged()
                took.append(target.stop())
            assert took[-1] <= IN_TIME, f"round {number}: it took {took[-1]:.1f} s to end"
            target.start()
            crew.check(acknowledged, number % len(crew.owners))
            progress(number, rounds)
        steps = crew.end()
        return [_finding(crew, took, with_stalled, steps)]


@contextmanager
def stalled_body(target: Server, session: str) -> Iterator[None]:
    """Send half of a step's body to a session, and nothing more, for the block."""
    place = urlsplit(target.url)
    assert place.hostname is not None
    head = (
        f"PUT {session}/steps/999999 HTTP/1.1\r\n"
        f"Host: {place.netloc}\r\n"
        "Content-Type: application/vnd.safetensors\r\n"
        "Content-Length: 2000\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + b"\0" * 1000)
        yield


def _finding(crew: Crew, took: list[float], stalled: int, steps: int) -> Finding:
    resent = sum(client.line.resent for client in crew.clients)
    replayed = sum(client.line.replayed for client in crew.clients)
    quickest = sorted(took)
    return Finding(
        "D1, D2, D3",
        "SIGTERM under load",
        f"{len(took)} × SIGTERM under 4 clients, each on a session of its own and on one that all "
        f"write to, and a fifth that sent {crew.heavy.acknowledged} × 64 MB; a snapshot after "
        f"every other step; in {stalled} of them a client had stopped within a body; {steps} steps",
        f"0 acknowledged steps lost; gone after {quickest[len(took) // 2]:.1f} s (median), "
        f"{quickest[-1]:.1f} s at most; {resent} requests were sent again, {replayed} of them had "
        "been carried out; all 6 sessions bit-identical to the same steps in memory",
    )
