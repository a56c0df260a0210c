"""A fixed table of bodies, queries and headers that were made to cost much.

Each is sent to the whole application, and has to be refused, or answered, within
50 ms of the processor. What it costs to receive the bytes is not counted: the
clock starts when the body is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import orjson
from crash.findings import Finding
from fuzz.costly import OTHER, SESSION, TABLE, Hostile
from fuzz.direct import Direct, Sent, check, served

LIMIT = 0.05
"""Seconds of the processor."""

ROUNDS = 3
"""The least of so many measurements counts: noise only adds."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Send the whole table, whatever the scale."""
    del scale
    worst = max(_measured(progress))
    return [
        Finding(
            "D5",
            "hostile bodies",
            f"{len(TABLE)} requests made to cost much: headers, JSON, names, patterns, lists, "
            "formulas, nesting, queries and ids, of up to 60 MB",
            f"all refused by name, or answered, in less than 50 ms of the processor: at most "
            f"{worst[0] * 1e3:.0f} ms ({worst[1]}); the session as before",
        )
    ]


def started(direct: Direct) -> None:
    """Create the session that the table's requests are sent to, and take a step."""
    params = {"w": [1.0, 2.0], "m": [[1.0, 2.0], [3.0, 4.0]]}
    body = json.dumps({"optimizer": {"type": "AdamW", "lr": 0.01}, "params": params}).encode()
    for path in (SESSION, OTHER):
        assert direct.send(Sent("PUT", path, body)).status == 201
    grads = json.dumps({"grads": {"w": [1, 1]}}).encode()
    assert direct.send(Sent("PUT", f"{SESSION}/steps/1", grads)).status == 201


def seconds(direct: Direct, hostile: Hostile) -> float:
    """Send one of the table; return how long it takes at best.

    Raises:
        AssertionError: it is answered otherwise than it must be.
    """
    sent, least = hostile.make(), float("inf")
    for _ in range(ROUNDS):
        answer = direct.send(sent)
        check(answer)
        assert answer.status in hostile.statuses, (
            f"{hostile.name}: {answer.status} {answer.body[:300]!r}"
        )
        assert len(answer.body) < 2**16, f"{hostile.name}: an answer of {len(answer.body)} bytes"
        least = min(least, answer.seconds - (_reading(sent.body) if hostile.is_read else 0))
    return least


def _reading(body: bytes) -> float:
    """Return how long orjson takes for a body, and Python to let go of it."""
    began = time.process_time()
    orjson.loads(body)
    return time.process_time() - began


def _measured(progress: Callable[[int, int], None]) -> Iterator[tuple[float, str]]:
    with served() as direct:
        started(direct)
        for done, hostile in enumerate(TABLE, start=1):
            before = direct.send(Sent("GET", SESSION, headers={})).headers["etag"]
            took = seconds(direct, hostile)
            assert took < LIMIT, f"{hostile.name} took {took * 1e3:.0f} ms of the processor"
            after = direct.send(Sent("GET", SESSION, headers={})).headers["etag"]
            assert after == before, f"{hostile.name} has changed the session"
            progress(done, len(TABLE))
            yield took, hostile.name
