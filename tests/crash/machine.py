"""All operations of the API in any order, against a model, and every step against torch."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from crash.findings import Finding, scaled
from state_machine.base import Tally
from state_machine.machines import InMemory, OnSqlite, explore

_OPERATIONS = 20_000
_FEWEST, _MOST = 5, 20
"""Services of one round. The first of a round is asked for little."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Explore until there were enough operations, in memory and on SQLite in turn."""
    wanted = scaled(_OPERATIONS, scale)
    runs = min(max(wanted // 80, _FEWEST), _MOST)
    number = secrets.randbelow(2**32)
    done = Tally()
    progress(0, wanted)
    while done.operations < wanted:
        for machine in (InMemory, OnSqlite):
            done.add(explore(machine, runs, number=number))
            progress(min(done.operations, wanted), wanted)
        number += 1
    worst = " and ".join(f"{error:.1e} in {dtype}" for dtype, error in sorted(done.worst.items()))
    return [
        Finding(
            "D2, D9",
            "state machine",
            f"{done.operations:,} operations of every kind in {done.sessions:,} sessions, with "
            f"{done.requests:,} requests, {done.rewinds:,} rewinds and {done.restarts:,} restarts; "
            f"{done.torch_steps:,} steps also taken by torch",
            f"0 differences; the worst |Δ| of a step, as a share of max|param|, is {worst}",
        )
    ]
