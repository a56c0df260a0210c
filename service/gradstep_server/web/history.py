"""``/v1/sessions/{id}/history`` and ``…/schedule``: what was done, and what will be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from gradstep_server.errors import InvalidRequest
from gradstep_server.kinds import MAX_COUNT
from gradstep_server.schedulers import Curve
from gradstep_server.schedulers.constant_lr import ConstantLR
from gradstep_server.schedulers.curve import MIN_DECIMATED
from gradstep_server.sessions.errors import SessionNotFound
from gradstep_server.sessions.receipts import HistoryPage
from gradstep_server.web.access import RefOf, ServicesOf
from gradstep_server.web.body_limit import rooms, take_room
from gradstep_server.web.curve_formats import ANSWER, CurveFormat, Drawing, points, respond
from gradstep_server.web.problems import responses
from gradstep_server.web.strict_route import StrictRoute
from gradstep_server.web.tensor_answers import json_answer

_COLUMNS = ("step", "lr", "grad_norm", "loss", "applied", "clipped")
_KEPT_RATE = ConstantLR(factor=1)
"""The schedule of a session that has none."""

router = APIRouter(prefix="/v1/sessions/{id}", tags=["sessions"], route_class=StrictRoute)


class HistoryAnswer(BaseModel):
    """The steps of a session in columns."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    step: list[int]
    lr: list[list[float]]
    """For each step, the rate of each group."""

    grad_norm: list[float | None]
    loss: list[float | None]
    applied: list[bool]
    clipped: list[bool]
    next: int | None
    """What to send as `after` for the steps behind these; null at the end."""


@router.get(
    "/history",
    operation_id="getHistory",
    summary="Read what each step did: rates, gradient norm, loss.",
    responses={
        200: {
            "model": HistoryAnswer,
            "description": "The steps.",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        },
        **responses(InvalidRequest, SessionNotFound),
    },
)
async def get_history(
    ref: RefOf,
    services: ServicesOf,
    format: Literal["json", "csv"] = "json",  # noqa: A002 - the parameter's name on the wire
    after: Annotated[int, Query(ge=0, le=MAX_COUNT, description="Only steps behind it.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100_000, description="At most so many.")] = 10_000,
) -> Response:
    page = await services.sessions.history(ref, after, limit)
    if format == "csv":
        return Response(_csv(page), media_type="text/csv; charset=utf-8")
    columns: dict[str, Any] = {
        name: [getattr(receipt, name) for receipt in page.receipts] for name in _COLUMNS
    }
    return json_answer({**columns, "next": page.next})


@router.get(
    "/schedule",
    operation_id="getSessionSchedule",
    summary="Preview the rates that the session's next steps will use.",
    responses={
        **ANSWER,
        **responses(InvalidRequest, SessionNotFound),
    },
)
async def get_schedule(
    request: Request,
    ref: RefOf,
    services: ServicesOf,
    format: CurveFormat = "json",  # noqa: A002 - the parameter's name on the wire
    start: Annotated[
        int | None,
        Query(ge=0, le=MAX_COUNT, description="The schedule's step to begin at; default: now."),
    ] = None,
    steps: Annotated[int, Query(ge=1, le=MAX_COUNT, description="How many steps.")] = 100,
    stride: Annotated[int, Query(ge=1, le=MAX_COUNT, description="Steps between points.")] = 1,
    max_points: Annotated[
        int | None,
        Query(ge=MIN_DECIMATED, le=MAX_COUNT, description="Keep at most so many points."),
    ] = None,
) -> Response:
    view = await services.sessions.view(ref)
    bases = tuple(optimizer.lr for _, optimizer in view.groups)
    window = points(
        steps,
        start=view.clock if start is None else start,
        stride=stride,
        groups=len(bases),
        limit=services.max_points,
        where="/query",
    )
    curve = Curve(view.config.scheduler or _KEPT_RATE, bases, window, view.followed)
    title = view.config.name or view.id
    drawing = Drawing(curve, format, grouped=True, title=title, max_points=max_points)
    await take_room(request, drawing.room, rooms(request).answers)
    return await respond(drawing, where="/query")


def _csv(page: HistoryPage) -> str:
    """Write receipts as CSV; an unknown number is an empty cell."""
    names = ["step", *(f"lr_{i}" for i in range(page.groups)), *_COLUMNS[2:]]
    lines = [",".join(names)]
    for receipt in page.receipts:
        step, rates, *rest = (getattr(receipt, name) for name in _COLUMNS)
        lines.append(",".join(map(_cell, [step, *rates, *rest])))
    return "\n".join(lines) + "\n"


def _cell(value: float | bool | None) -> str:  # noqa: FBT001 - a cell's value, not a switch
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else repr(value)
