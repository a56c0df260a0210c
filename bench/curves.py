"""A curve over HTTP, asked for by GET.

*Whole curves* stand beside stepping torch's scheduler as often. *Request rates* are the time of a
request where eight connections always have one under way, beside a FastAPI route that does nothing,
served alike. *Windows* of a thousand steps stand at the start of a schedule and far behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from itertools import count

import httpx
import torch

from bench.crowd import Request, get, seconds_each
from bench.line import Line
from bench.rows import Progress, Row
from bench.servers import gradstep_server, peer
from bench.turns import turn_about

KINDS: Mapping[str, Mapping[str, float]] = {
    "StepLR": {"step_size": 1000, "gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 100_000},
}
_POINTS, _FEW, _WINDOW = 100_000, 100, 1_000
_FAR = 1_000_000_000

TORCH_TARGET = 1 / 50
EMPTY_TARGET = 1 / 0.7
WINDOW_TARGET = 1.1
"""A window far behind costs what one at the start costs, but for noise and longer numbers."""

_KIND = "CosineAnnealingLR"
_CLIENTS, _REQUESTS = 8, 400
_FORMS = ("rows", "csv", "svg")


def run(progress: Progress) -> list[Row]:
    """Measure whole curves, then rates of requests, then windows."""
    points, rounds = (5_000, 3) if progress.quick else (_POINTS, 9)
    total = len(KINDS) + 2
    rows: list[Row] = []
    with ExitStack() as running:
        service = running.enter_context(gradstep_server())
        empty = running.enter_context(peer("empty"))
        line = running.enter_context(closing(Line(service.port, 200 * points)))
        for done, (kind, params) in enumerate(KINDS.items()):
            progress.show(done, total)
            rows += _whole(line, kind, params, points, rounds)
        progress.show(total - 2, total)
        rows += _rates(service.port, empty, rounds)
        progress.show(total - 1, total)
        rows.append(_windows(service.port, rounds))
    progress.show(total, total)
    return rows


def _whole(
    line: Line, kind: str, params: Mapping[str, float], points: int, rounds: int
) -> list[Row]:
    numbers = count()

    def asked(form: str) -> Callable[[], object]:
        path = _path(kind, params, steps=points, format=form)
        # No curve is asked for twice: the service would know it.
        return lambda: line.ask("GET", f"{path}&start={next(numbers)}")

    things = {form: asked(form) for form in ("columns", *_FORMS)}
    things["torch"] = lambda: stepped(kind, params, points)
    measured = turn_about(things, rounds=rounds, calls=1)
    targets = {"columns": TORCH_TARGET}
    return [
        Row.compare(
            "curves",
            f"{kind}, {points} points",
            form,
            measured,
            ours=form,
            others=["torch"],
            target=targets.get(form),
        )
        for form in ("columns", *_FORMS)
    ]


def stepped(kind: str, params: Mapping[str, float], points: int) -> list[float]:
    """Return torch's rates, found as a training loop finds them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **params)
    optimizer.step()  # else torch warns
    rates = []
    for _ in range(points):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return rates


def _rates(port: int, empty: int, rounds: int) -> list[Row]:
    few = _path(_KIND, KINDS[_KIND], steps=_FEW)
    tag = httpx.get(f"http://127.0.0.1:{port}{few}").headers["ETag"]

    def unseen(caller: int) -> Request:
        """Return requests of which no two of any caller ask for the same curve."""
        return lambda n: get(f"{few}&start={n * _CLIENTS + caller}")(n)

    asked = {
        "curve, the same again": (port, [get(few)] * _CLIENTS),
        "curve, always another": (port, [unseen(i) for i in range(_CLIENTS)]),
        "curve, the same again by its ETag": (
            port,
            [get(few, **{"If-None-Match": tag})] * _CLIENTS,
        ),
        "empty route": (empty, [get("/")] * _CLIENTS),
    }
    measured = seconds_each(asked, rounds=rounds, times=_REQUESTS)

    def row(what: str, target: float | None) -> Row:
        return Row.compare(
            "curves",
            f"{_KIND}, {_FEW} points, {_CLIENTS} connections",
            what,
            measured,
            ours=what,
            others=["empty route"],
            target=target,
        )

    targets = [EMPTY_TARGET, EMPTY_TARGET, None]
    return [row(what, target) for what, target in zip(asked, targets, strict=False)]


def _windows(port: int, rounds: int) -> Row:
    def from_step(first: int, caller: int) -> Request:
        path = _path(_KIND, KINDS[_KIND], steps=_WINDOW)
        return lambda n: get(f"{path}&start={first + n * _CLIENTS + caller}")(n)

    measured = seconds_each(
        {
            name: (port, [from_step(first, i) for i in range(_CLIENTS)])
            for name, first in {"far behind": _FAR, "at the start": 0}.items()
        },
        rounds=rounds,
        times=_REQUESTS,
    )
    return Row.compare(
        "curves",
        f"{_KIND}, {_WINDOW} points, {_CLIENTS} connections",
        "window from step 1e9",
        measured,
        ours="far behind",
        others=["at the start"],
        target=WINDOW_TARGET,
    )


def _path(kind: str, params: Mapping[str, float], **asked: object) -> str:
    query = {"base_lr": 0.1, **params, **asked}
    return f"/v1/schedules/{kind}?" + "&".join(f"{name}={value}" for name, value in query.items())
