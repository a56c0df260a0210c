"""How a curve is written: columns and rows of JSON, CSV, or a picture.

A curve is written chunk by chunk, each chunk evaluated when it is due, so that
ten million points never are in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import (
    DIRECT,
    Curve,
    Loop,
    Places,
    RateError,
    Rates,
    Steps,
    WindowError,
    window,
)
from gradstep_server.schedulers.curve import CHUNK, OWN_STEPS
from gradstep_server.web import picture
from gradstep_server.web.pointers import clause

CurveFormat = Literal["json", "columns", "rows", "csv", "svg"]
"""`json` and `columns` are the same: one array per column."""

MEDIA_TYPES: Mapping[CurveFormat, str] = {
    "json": "application/json",
    "columns": "application/json",
    "rows": "application/json",
    "csv": "text/csv; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Drawing:
    """A curve and how it is to be written."""

    curve: Curve
    form: CurveFormat
    grouped: bool
    """Whether there is one line per group, even if there is only one group."""

    title: str
    subtitle: str = ""
    max_points: int | None = None
    """Keep at most this many points."""


def points(
    steps: int,
    *,
    start: int,
    stride: int,
    last_epoch: int = -1,
    groups: int = 1,
    limit: int,
    where: str = "",
    loop: Loop = DIRECT,
) -> range:
    """Return the step numbers of a curve of several groups.

    Args:
        steps: how many steps the curve spans, or what the loop's unit says.
        start: how many of them to skip.
        stride: the distance between two points.
        last_epoch: the last step already taken; -1 for none.
        groups: the number of lines.
        limit: the most numbers in the whole answer.
        where: the JSON pointer to the parameters, for errors.
        loop: how the schedule is stepped.

    Raises:
        InvalidRequest: the window is too large, or holds no step.
    """
    try:
        return window(
            steps,
            start=start,
            stride=stride,
            last_epoch=last_epoch,
            limit=limit // groups,
            loop=loop,
        )
    except WindowError as error:
        raise InvalidRequest(Fault(f"{where}/{error.field}", clause(error.detail))) from error


async def respond(
    drawing: Drawing, *, where: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a curve, streaming it where it is long.

    Args:
        drawing: what to write and how.
        where: the JSON pointer to the parameters, for errors.
        headers: further headers of the answer.

    Raises:
        InvalidRequest: a rate cannot be used, or `max_points` is too small.
    """
    media_type = MEDIA_TYPES[drawing.form]
    prepare = partial(_prepare, drawing, where)
    curve = drawing.curve
    if len(curve) * len(curve.base_lrs) <= CHUNK:
        # Few points take long where all the steps before them must be taken.
        slow = curve.schedule.furthest < MAX_COUNT
        whole = await run_in_threadpool(_whole, prepare) if slow else _whole(prepare)
        return Response(whole, headers=headers, media_type=media_type)
    return StreamingResponse(
        await run_in_threadpool(prepare), headers=headers, media_type=media_type
    )


def _whole(prepare: Callable[[], Iterator[bytes]]) -> bytes:
    return b"".join(prepare())


def _prepare(drawing: Drawing, where: str) -> Iterator[bytes]:
    """Do all that can fail, and return what writes the rest."""
    curve = drawing.curve
    kept = drawing.max_points
    if drawing.form == "svg":
        kept = min(kept or picture.MAX_POINTS, picture.MAX_POINTS)
    try:
        if kept is not None:
            curve = curve.decimated(kept)
        # What has begun to be sent cannot become an error any more.
        curve.ensure_finite()
    except WindowError as error:
        raise InvalidRequest(Fault(f"{where}/{error.field}", clause(error.detail))) from error
    except RateError as error:
        said = str(error) if curve.loop.is_direct else f"{error} {OWN_STEPS}"
        raise InvalidRequest(Fault(where, clause(said))) from error
    if drawing.form == "svg":
        return iter([picture.picture(curve, drawing.title, drawing.subtitle)])
    return _WRITERS[drawing.form](curve, drawing)


def _columns(curve: Curve, drawing: Drawing) -> Iterator[bytes]:
    notes = drawing.curve.notes()
    yield b'{"step":['
    yield from _numbers(curve.steps())
    yield b'],"position":'
    if _has_places(curve):
        yield b"["
        yield from _numbers(curve.places())
        yield b"]"
    else:
        yield b"null"
    yield b',"lr":['
    if drawing.grouped:
        for group in range(len(curve.base_lrs)):
            yield b",[" if group else b"["
            yield from _numbers(curve.lrs(group))
            yield b"]"
    else:
        yield from _numbers(curve.lrs())
    yield b'],"momentum":'
    if curve.schedule.moves_momentum:
        yield b"["
        yield from _numbers(curve.momentums())
        yield b"]"
    else:
        yield b"null"
    yield b',"warnings":' + orjson.dumps(notes) + b"}"


def _numbers(chunks: Iterator[Steps] | Iterator[Rates] | Iterator[Places]) -> Iterator[bytes]:
    """Write arrays as one, without its brackets."""
    for i, chunk in enumerate(chunks):
        if i:
            yield b","
        yield _array(chunk)


def _rows(curve: Curve, drawing: Drawing) -> Iterator[bytes]:
    slots = b",".join([b"%b"] * len(curve.base_lrs))
    row = b'{"step":%b,' + (b'"position":%b,' if _has_places(curve) else b"") + b'"lr":'
    row += b"[" + slots + b"]" if drawing.grouped else slots
    row += b',"momentum":%b}' if curve.schedule.moves_momentum else b"}"
    for i, chunk in enumerate(_lines(curve, row, b",")):
        yield (b"," if i else b"[") + chunk
    yield b"]"


def _csv(curve: Curve, drawing: Drawing) -> Iterator[bytes]:
    names = ["step", "position"] if _has_places(curve) else ["step"]
    names += [f"lr_{i}" for i in range(len(curve.base_lrs))] if drawing.grouped else ["lr"]
    if curve.schedule.moves_momentum:
        names.append("momentum")
    yield ",".join(names).encode() + b"\n"
    for chunk in _lines(curve, b",".join([b"%b"] * len(names)), b"\n"):
        # A momentum that the optimizer keeps is an empty cell.
        yield chunk.replace(b"null", b"") + b"\n"


def _lines(curve: Curve, template: bytes, between: bytes) -> Iterator[bytes]:
    """Fill the template with the columns' values at each point, chunk by chunk.

    Cutting up what orjson wrote takes less time than writing each number by itself.
    """
    columns: list[Iterator[Places]] = [curve.places()] if _has_places(curve) else []
    columns += [curve.lrs(group) for group in range(len(curve.base_lrs))]
    if curve.schedule.moves_momentum:
        columns.append(curve.momentums())
    for chunk in zip(curve.steps(), *columns, strict=True):
        cells = (_array(column).split(b",") for column in chunk)
        yield between.join(map(template.__mod__, zip(*cells, strict=True)))


def _has_places(curve: Curve) -> bool:
    """Tell whether a curve shows places in the loop beside its steps."""
    return curve.loop.unit != "step"


def _array(values: NDArray[np.number[Any]]) -> bytes:
    """Write an array as JSON, without its brackets."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


_WRITERS: Mapping[CurveFormat, Callable[[Curve, Drawing], Iterator[bytes]]] = {
    "json": _columns,
    "columns": _columns,
    "rows": _rows,
    "csv": _csv,
}
