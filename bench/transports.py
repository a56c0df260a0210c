"""What moves fewer bytes, or moves them cheaper: a step by AdamW on ``memory://``.

Over a *Unix socket* instead of loopback TCP, with the SDK. Over TCP with the leanest client:
gradients in *BF16*, parameters answered in *BF16* (``?dtype=BF16``), or a *receipt* alone
(``?return=receipt``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save

import gradstep
from bench.line import Line
from bench.rows import Progress, Row
from bench.servers import gradstep_server
from bench.steps import MEMORY, fresh
from bench.turns import turn_about

_M = 1_000_000

SIZES: Mapping[str, tuple[int, int, int]] = {"1 M": (_M, 20, 5), "25 M": (25 * _M, 15, 1)}
"""Elements, rounds, and calls in each."""

_QUICK: Mapping[str, tuple[int, int, int]] = {"100 k": (100_000, 3, 3)}

SOCKET_TARGET = 0.9
"""What a Unix socket takes of TCP's time, where bytes are what counts."""

_SAFETENSORS = "application/vnd.safetensors"


def run(progress: Progress) -> list[Row]:
    """Measure every size."""
    sizes = _QUICK if progress.quick else SIZES
    rows: list[Row] = []
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory())
        tcp = running.enter_context(gradstep_server())
        unix = running.enter_context(gradstep_server(uds=Path(folder, "socket")))
        clients = [running.enter_context(service.client()) for service in (tcp, unix)]
        for done, (label, size) in enumerate(sizes.items()):
            progress.show(done, len(sizes))
            rows += _rows(label, size, clients[0], clients[1], tcp.port)
    progress.show(len(sizes), len(sizes))
    return rows


def _rows(
    label: str,
    size: tuple[int, int, int],
    tcp: gradstep.Client,
    unix: gradstep.Client,
    port: int,
) -> list[Row]:
    elements, rounds, calls = size
    gradient = np.random.default_rng(1).standard_normal(elements, np.float32)
    bodies = {
        "F32": save({"w": gradient}),
        "BF16": save({"w": gradient.astype(ml_dtypes.bfloat16)}),
    }
    with ExitStack() as running:
        by_tcp = running.enter_context(fresh(tcp, elements))
        by_unix = running.enter_context(fresh(unix, elements))
        raw = running.enter_context(fresh(tcp, elements))
        line = running.enter_context(closing(Line(port, 4 * elements + 65_536)))
        numbers = count(1)

        def sent(body: bytes, query: str = "") -> Callable[[], object]:
            return lambda: line.ask(
                "PUT", f"{_path(raw)}/{next(numbers)}{query}", body, _SAFETENSORS
            )

        measured = turn_about(
            {
                "Unix socket": lambda: by_unix.step({"w": gradient}),
                "TCP": lambda: by_tcp.step({"w": gradient}),
                "F32 both ways": sent(bodies["F32"]),
                "gradients in BF16": sent(bodies["BF16"]),
                "parameters in BF16": sent(bodies["F32"], "?dtype=BF16"),
                "BF16 both ways": sent(bodies["BF16"], "?dtype=BF16"),
                "receipt alone": sent(bodies["F32"], "?return=receipt"),
                "BF16, receipt alone": sent(bodies["BF16"], "?return=receipt"),
            },
            rounds=rounds,
            calls=calls,
            memory=MEMORY * elements,
        )

    def row(ours: str, other: str, target: float | None = None) -> Row:
        return Row.compare(
            "transports", label, ours, measured, ours=ours, others=[other], target=target
        )

    large = elements > _M
    narrow = [name for name in measured if "BF16" in name or "alone" in name]
    return [
        row("Unix socket", "TCP", SOCKET_TARGET if large else None),
        *(row(name, "F32 both ways") for name in narrow),
    ]


def _path(session: gradstep.Session) -> str:
    return f"/v1/sessions/{session.id}/steps"
