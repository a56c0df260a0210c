"""A thousand slow clients beside a few good ones, who must not notice.

Half of the slow ones send the head of a request, half of them a body, a byte every three
seconds; each is replaced when the server has let go of it. Meanwhile others step small sessions.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from crash.connections import Connection
from crash.findings import Finding, evidence, scaled
from crash.slow_sockets import PARTS, SESSION, LetGo, dribble
from crash.workloads import Workload
from server_process import Server, server

from gradstep_server.web.slow_clients import Patience

EACH = 500
"""Connections that are slow with a head, and as many with a body."""

_SECONDS = 120.0
_AT_LEAST = 30.0
"""Seconds, of those, in which also a body is late at a smaller scale."""

_IDLE = 30.0
"""Seconds in which there are good clients only."""

_GOOD = 2
_PAUSE = 0.01
"""Seconds between an answer to a good client and its next step."""

NOTICED = 0.020
"""Seconds by which the slow ones may delay one in a hundred steps."""

_LIMITS = {"head": Patience().head, "body": Patience().span}
_WITHIN = 5.0
"""Seconds after its limit in which a slow client is let go, on a busy machine."""

_ELEMENTS = 1024


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Step small sessions alone, then beside slow clients."""
    each, seconds = scaled(EACH, scale), max(_SECONDS * scale, _AT_LEAST)
    with evidence("slow") as folder, server(folder / "data") as target:
        slow = Workload(SESSION.rpartition("/")[2], 1, elements=24_000)
        with Connection(target.url) as connection:
            slow.create(connection)
        good = [Good(target, Workload(f"good-{n}", n + 2, _ELEMENTS)) for n in range(_GOOD)]
        idle = _measured(good, max(_IDLE * scale, 1.0))
        progress(1, 3)
        with _slow_clients(target, each, seconds) as ended:
            beside = _measured(good, seconds)
        progress(2, 3)
        for client in good:
            client.end()
        slow.prove(0, [target.url])
        _check(ended, each)
        if scale >= 1:
            late = _percentile(beside, 99) - _percentile(idle, 99)
            assert late <= NOTICED, f"the slow ones delay good clients by {1000 * late:.0f} ms"
        progress(3, 3)
        return [_finding(each, seconds, idle, beside, ended)]


class Good:
    """A client that takes one step after the other, and notes how long each took."""

    def __init__(self, target: Server, work: Workload) -> None:
        self._work = work
        self._url = target.url
        self._connection = Connection(target.url)
        self._taken = 0
        work.create(self._connection)

    def step_until(self, end: float, took: list[float]) -> None:
        """Take steps until a moment of the monotonic clock."""
        while time.monotonic() < end:
            began = time.perf_counter()
            self._work.send_step(self._connection, self._taken + 1)
            answer = self._connection.receive()
            took.append(time.perf_counter() - began)
            assert answer.status == 201, f"{answer.status} {answer.content!r}"
            self._taken += 1
            time.sleep(_PAUSE)

    def end(self) -> None:
        """Raise unless the session is what its steps lead to."""
        self._connection.close()
        self._work.prove(self._taken, [self._url])


def _measured(good: Sequence[Good], seconds: float) -> list[float]:
    """Return the seconds that each step of the good clients takes, for some time."""
    took: list[list[float]] = [[] for _ in good]
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client.step_until, args=(end, into))
        for client, into in zip(good, took, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(took), "a good client took no step"
    return sorted(second for each in took for second in each)


@contextmanager
def _slow_clients(target: Server, each: int, seconds: float) -> Iterator[list[LetGo]]:
    """Have slow clients in the block; then it is known how each of them ended."""
    place = urlsplit(target.url)
    assert place.hostname is not None
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    args = ((place.hostname, place.port), each, seconds, there)
    process = spawning.Process(target=dribble, args=args, daemon=True)
    process.start()
    there.close()
    ended: list[LetGo] = []
    try:
        assert here.poll(60), "the slow clients do not connect"
        here.recv()
        yield ended
        assert here.poll(60), "the slow clients do not end"
        ended += here.recv()
    finally:
        process.kill()
        process.join()


def _check(ended: Sequence[LetGo], each: int) -> None:
    """Raise unless every slow client was told that it was late, when it was."""
    for one in ended:
        limit = _LIMITS[one.part]
        assert one.seconds <= limit + _WITHIN, f"a slow client was kept: {one}"
        if one.said != b"open":
            assert one.said.startswith(b"HTTP/1.1 408 "), f"a slow client was told else: {one}"
            assert one.seconds >= limit - 0.1, f"a client was let go too early: {one}"
    closed = Counter(one.part for one in ended if one.said != b"open")
    assert all(closed[part] >= each for part in PARTS), f"only {closed} were let go"


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def _finding(
    each: int,
    seconds: float,
    idle: Sequence[float],
    beside: Sequence[float],
    ended: Sequence[LetGo],
) -> Finding:
    def told(took: Sequence[float]) -> str:
        return f"{1000 * _percentile(took, 50):.1f} ms, p99 {1000 * _percentile(took, 99):.1f} ms"

    closed = [one for one in ended if one.said != b"open"]
    latest = {part: max(one.seconds for one in closed if one.part == part) for part in _LIMITS}
    return Finding(
        "availability",
        "slow clients",
        f"{2 * each:,} connections at a time for {seconds:.0f} s, half of them slow with a head, "
        f"half with a body, a byte every 3 s, each replaced when it was closed, on the machine of "
        f"{_GOOD} good clients, who took {len(beside):,} steps of {_ELEMENTS:,} parameters",
        f"all {len(closed):,} slow ones that were late were told 408 and closed, within "
        f"{latest['head']:.1f} s for a head (limit {_LIMITS['head']:.0f}) and "
        f"{latest['body']:.1f} s for a body (limit {_LIMITS['body']:.0f}); "
        f"a good client's step took {told(beside)}; without them {told(idle)}",
    )
