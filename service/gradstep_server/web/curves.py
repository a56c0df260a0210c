"""``/v1/schedules``: a whole curve with one request."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import QueryParams

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.schedulers import Curve, Schedule
from gradstep_server.web import caching
from gradstep_server.web.body_limit import rooms, take_room
from gradstep_server.web.curve_formats import (
    ANSWER,
    MEDIA_TYPES,
    CurveFormat,
    Drawing,
    points,
    respond,
)
from gradstep_server.web.curve_query import WINDOW, from_query
from gradstep_server.web.curve_request import CurveRequest
from gradstep_server.web.errors import UnknownKind
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.strict_route import StrictRoute

_FORM = "How the curve is written; `json` and `columns` are the same."

Form = Annotated[CurveFormat, Query(description=_FORM)]


def router(max_points: int) -> APIRouter:
    """Return the routes of curves.

    Args:
        max_points: the most numbers in one answer.
    """
    routes = APIRouter(prefix="/v1/schedules", tags=["schedules"], route_class=StrictRoute)

    @routes.post(
        "",
        operation_id="createCurve",
        summary="Compute the learning rates of a schedule over a window of steps.",
        responses={
            **ANSWER,
            **responses(*BODY_FAILS),
        },
    )
    async def create_curve(
        request: Request,
        asked: CurveRequest,
        format: Form = "json",  # noqa: A002 - the parameter's name on the wire
    ) -> Response:
        drawing = _drawing(asked, format, max_points)
        await take_room(request, drawing.room, rooms(request).answers)
        return await respond(drawing)

    @routes.get(
        "/{type}",
        operation_id="getCurve",
        summary="Compute a curve from a URL: for dashboards and pictures.",
        description=(
            "The parameters of the kind stand in the query, such as `step_size=30`. A list "
            "is repeated (`milestones=30&milestones=80`) or separated by commas. For "
            "composites, `spec` holds the scheduler as JSON instead."
        ),
        responses={
            **ANSWER,
            304: {"description": "The client has this curve already (`If-None-Match`)."},
            **responses(InvalidRequest, UnknownKind),
        },
        openapi_extra={"parameters": _query_parameters()},
    )
    async def get_curve(request: Request) -> Response:
        query = request.query_params
        form = _form(query)
        asked = from_query(request.path_params["type"], query)
        drawing = _drawing(asked, form, max_points, where="/query")
        headers = caching.headers_for(form, asked.model_dump_json())
        unchanged = caching.not_modified(request, headers)
        if unchanged is not None:
            return unchanged
        await take_room(request, drawing.room, rooms(request).answers)
        return await respond(drawing, where="/query", headers=headers)

    return routes


def _form(query: QueryParams) -> CurveFormat:
    """Return the form that a query asks for.

    Raises:
        InvalidRequest: there is no such form, or it is named twice.
    """
    asked = query.getlist("format") or ["json"]
    if len(asked) > 1 or asked[0] not in MEDIA_TYPES:
        raise InvalidRequest(Fault("/query/format", f"must be one of {', '.join(MEDIA_TYPES)}"))
    return cast("CurveFormat", asked[0])


def _drawing(asked: CurveRequest, form: CurveFormat, limit: int, where: str = "") -> Drawing:
    loop = asked.loop
    window = points(
        asked.steps,
        start=asked.start,
        stride=asked.stride,
        last_epoch=asked.last_epoch,
        groups=len(asked.base_lrs),
        limit=limit,
        where=where,
        loop=loop,
    )
    return Drawing(
        Curve(asked.scheduler, asked.base_lrs, window, asked.followed, loop),
        form,
        asked.grouped,
        asked.scheduler.kind_name(),
        caption(asked.scheduler) if form == "svg" else "",
        asked.max_points,
    )


def caption(schedule: Schedule) -> str:
    """Write a schedule's parameters in one line.

    A StepLR reads ``step_size=30, gamma=0.1``; a composite names what it holds.
    """
    shown = {name: getattr(schedule, name) for name in type(schedule).model_fields}
    return ", ".join(f"{name}={_short(value)}" for name, value in shown.items() if name != "type")


def _short(value: object) -> str:
    if isinstance(value, Schedule):
        return value.kind_name()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _query_parameters() -> list[dict[str, Any]]:
    """Declare what FastAPI does not see: the query of `getCurve` is read by `from_query`."""
    properties = CurveRequest.model_json_schema()["properties"]
    parameters = [
        {"name": "type", "in": "path", "required": True, "schema": {"type": "string"}},
        _declared(
            "format",
            _FORM,
            {"type": "string", "enum": list(MEDIA_TYPES), "default": "json"},
        ),
        _declared("spec", "The scheduler as JSON, instead of its parameters.", {"type": "string"}),
    ]
    for name in WINDOW:
        schema = dict(properties[name])
        schema.pop("title", None)
        required = CurveRequest.model_fields[name].is_required()
        parameters.append(_declared(name, schema.pop("description"), schema, required=required))
    parameters.append(
        {
            "name": "parameters",
            "in": "query",
            "style": "form",
            "explode": True,
            "description": "The parameters of the kind, each under its own name.",
            "schema": {"type": "object", "additionalProperties": True},
            "example": {"step_size": 30},
        }
    )
    return parameters


def _declared(
    name: str, description: str, schema: dict[str, Any], *, required: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema,
    }
