"""How a curve is written: columns and rows of JSON, CSV, or a picture.

A long curve is written chunk by chunk, each chunk evaluated when it is due, so
that ten million points never are in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse
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
from gradstep_server.web.body_answer import whole_answer
from gradstep_server.web.curve_request import CurveAnswer, CurvePoint
from gradstep_server.web.number_text import number_text
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

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CurveAnswer | list[CurvePoint],
        "description": "The curve.",
        "content": {
            "text/csv": {
                "schema": {"type": "string"},
                "example": "step,lr\n0,0.1\n1,0.1\n2,0.01\n",
            },
            "image/svg+xml": {"schema": {"type": "string"}},
        },
    }
}
"""What a route declares that answers with a curve, in every form."""

Part = bytes | memoryview
"""Some bytes of what is written."""

_WRITING = 64
"""Bytes of memory that a number takes while it is written, and as text."""

QUICK = CHUNK
"""As many numbers are written faster than a thread is found for them."""

_WOVEN = CHUNK // 16
"""Points that are joined at once: their pieces, of 80 bytes each, stay in the caches."""

WHOLE = 4 * CHUNK
"""Up to so many numbers, some megabytes, are written whole: only a stream has to be
evaluated twice, since what has begun to be sent cannot become an error any more."""


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

    @property
    def numbers(self) -> int:
        """How many learning rates there are."""
        return len(self.curve) * len(self.curve.base_lrs)

    @property
    def room(self) -> int:
        """Bytes of memory that writing it takes, or at most a part of it at a time."""
        return _WRITING * min(self.numbers, WHOLE)


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
    curve = drawing.curve
    numbers = drawing.numbers
    if numbers > WHOLE:
        pieces = await run_in_threadpool(_streamed, drawing, where)
        return StreamingResponse(pieces, headers=headers, media_type=media_type)
    # Few points take long where all the steps before them must be taken.
    quick = numbers <= QUICK and curve.schedule.furthest == MAX_COUNT
    whole = _whole(drawing, where) if quick else await run_in_threadpool(_whole, drawing, where)
    return whole_answer(whole, headers, media_type)


def _whole(drawing: Drawing, where: str) -> list[Part]:
    with _refusals(drawing, where):
        return list(_written(_thinned(drawing)))


def _streamed(drawing: Drawing, where: str) -> Iterator[Part]:
    """Do all that can fail, and return what writes the rest."""
    with _refusals(drawing, where):
        thinned = _thinned(drawing)
        # What has begun to be sent cannot become an error any more.
        thinned.curve.ensure_finite()
    return _written(thinned)


@contextmanager
def _refusals(drawing: Drawing, where: str) -> Iterator[None]:
    try:
        yield
    except WindowError as error:
        raise InvalidRequest(Fault(f"{where}/{error.field}", clause(error.detail))) from error
    except RateError as error:
        said = str(error) if drawing.curve.loop.is_direct else f"{error} {OWN_STEPS}"
        raise InvalidRequest(Fault(where, clause(said))) from error


def _thinned(drawing: Drawing) -> Drawing:
    """Return the drawing with no more points than were asked for, or can be told apart."""
    kept = drawing.max_points
    if drawing.form == "svg":
        kept = min(kept or picture.MAX_POINTS, picture.MAX_POINTS)
    if kept is None:
        return drawing
    return replace(drawing, curve=drawing.curve.decimated(kept))


def _written(drawing: Drawing) -> Iterator[Part]:
    return _WRITERS[drawing.form](drawing)


def _svg(drawing: Drawing) -> Iterator[bytes]:
    yield picture.picture(drawing.curve, drawing.title, drawing.subtitle)


def _columns(drawing: Drawing) -> Iterator[Part]:
    curve = drawing.curve
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
    yield b',"warnings":' + orjson.dumps(curve.notes()) + b"}"


def _numbers(chunks: Iterator[Steps] | Iterator[Rates] | Iterator[Places]) -> Iterator[Part]:
    """Write arrays as one, without its brackets."""
    for i, chunk in enumerate(chunks):
        if i:
            yield b","
        yield number_text(chunk)


def _rows(drawing: Drawing) -> Iterator[bytes]:
    curve = drawing.curve
    begin, end = b'{"step":', b"}"
    seams = [b',"position":'] if _has_places(curve) else []
    seams += [b',"lr":[' if drawing.grouped else b',"lr":', *[b","] * (len(curve.base_lrs) - 1)]
    closing = b"]" if drawing.grouped else b""
    if curve.schedule.moves_momentum:
        seams.append(closing + b',"momentum":')
    else:
        end = closing + end
    for i, chunk in enumerate(_lines(curve, [*seams, end + b"," + begin])):
        yield (b"," if i else b"[") + begin + chunk + end
    yield b"]"


def _csv(drawing: Drawing) -> Iterator[bytes]:
    curve = drawing.curve
    names = ["step", "position"] if _has_places(curve) else ["step"]
    names += [f"lr_{i}" for i in range(len(curve.base_lrs))] if drawing.grouped else ["lr"]
    if curve.schedule.moves_momentum:
        names.append("momentum")
    yield ",".join(names).encode() + b"\n"
    for chunk in _lines(curve, [*[b","] * (len(names) - 1), b"\n"]):
        # A momentum that the optimizer keeps is an empty cell.
        yield chunk.replace(b"null", b"") + b"\n"


def _lines(curve: Curve, seams: Sequence[bytes]) -> Iterator[bytes]:
    """Write the columns' values point by point, some thousands at a time.

    Args:
        curve: what to write.
        seams: what stands behind the value of each column; the last one between two points.
    """
    columns: list[Iterator[Places]] = [curve.places()] if _has_places(curve) else []
    columns += [curve.lrs(group) for group in range(len(curve.base_lrs))]
    if curve.schedule.moves_momentum:
        columns.append(curve.momentums())
    for chunk in zip(curve.steps(), *columns, strict=True):
        for begin in range(0, len(chunk[0]), _WOVEN):
            yield _woven([column[begin : begin + _WOVEN] for column in chunk], seams)


def _woven(columns: Sequence[Places], seams: Sequence[bytes]) -> bytes:
    """Write columns point by point.

    Cutting up what orjson wrote takes less time than writing each number by itself,
    and joining all pieces at once less than joining those of each point.
    """
    each, points = 2 * len(seams), len(columns[0])
    pieces = [b""] * (each * points)
    for i, (column, seam) in enumerate(zip(columns, seams, strict=True)):
        pieces[2 * i :: each] = bytes(number_text(column)).split(b",")
        pieces[2 * i + 1 :: each] = [seam] * points
    pieces.pop()
    return b"".join(pieces)


def _has_places(curve: Curve) -> bool:
    """Tell whether a curve shows places in the loop beside its steps."""
    return curve.loop.unit != "step"


_WRITERS: Mapping[CurveFormat, Callable[[Drawing], Iterator[Part]]] = {
    "json": _columns,
    "columns": _columns,
    "rows": _rows,
    "csv": _csv,
    "svg": _svg,
}
