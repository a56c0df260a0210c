"""The most memory that the service has had, for one session of AdamW in one tensor of float32.

Beside it is what is promised: what it has when it is idle, 12 bytes per parameter (the parameter
and two moments), a request's body, an answer's, and 64 MiB. The store is SQLite, since the log of
``memory://`` is in memory too.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil

from bench.rows import Progress, Row, Spread
from bench.servers import gradstep_server
from bench.steps import fresh

_M = 1_000_000

SIZES: Mapping[str, int] = {"25 M": 25 * _M, "100 M": 100 * _M}
_QUICK: Mapping[str, int] = {"1 M": _M}

STEPS = 5
_STATE, _BODY, _REST = 12, 4, 64 << 20
"""Bytes per parameter of the state and of a body, and what everything else may take."""


def run(progress: Progress) -> list[Row]:
    """Measure every size, each with a server of its own."""
    sizes = _QUICK if progress.quick else SIZES
    rows = []
    for done, (label, elements) in enumerate(sizes.items()):
        progress.show(done, len(sizes))
        rows.append(_row(label, elements))
    progress.show(len(sizes), len(sizes))
    return rows


def _row(label: str, elements: int) -> Row:
    gradients = {"w": np.ones(elements, np.float32)}
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory())
        service = running.enter_context(gradstep_server(store=f"sqlite:///{folder}/data"))
        client = running.enter_context(service.client())
        idle = psutil.Process(service.pid).memory_info().rss
        session = running.enter_context(fresh(client, elements))
        for _ in range(STEPS):
            session.step(gradients)
        peak = highest(service.pid)
    promised = idle + (_STATE + 2 * _BODY) * elements + _REST
    others = {"promised": Spread.of([promised]), "idle": Spread.of([idle])}
    return Row(
        "memory", label, "peak", Spread.of([peak]), others, peak / promised, target=1.0, unit="B"
    )


def highest(pid: int) -> int:
    """Return the most bytes that a process has had in memory at once.

    Raises:
        RuntimeError: the system does not tell.
    """
    status = Path(f"/proc/{pid}/status")
    told = status.read_text() if status.exists() else ""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", told, re.MULTILINE)
    if found is None:
        raise RuntimeError("only Linux tells a process's peak of memory")
    return int(found[1]) << 10
