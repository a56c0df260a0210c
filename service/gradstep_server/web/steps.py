"""``/v1/sessions/{id}/…``: steps, epochs, parameters and state."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from gradstep_server.kinds import MAX_COUNT, Real
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    GenerationMismatch,
    InvalidConfig,
    InvalidRequest,
    InvalidTensors,
    NonFiniteGradient,
    ParamsConflict,
    ParamsMissing,
    PositionMismatch,
    SessionNotFound,
    StepConflict,
    StepNotFound,
    StorageFull,
    StoreUnavailable,
)
from gradstep_server.sessions.hot import Ref
from gradstep_server.sessions.receipts import EpochReceipt, Receipt
from gradstep_server.sessions.transfer import imported
from gradstep_server.web import tensor_bodies
from gradstep_server.web.access import Generation, RefOf, Services, ServicesOf
from gradstep_server.web.errors import (
    BodyTooLarge,
    MalformedBody,
    NotAcceptable,
    UnsupportedMediaType,
)
from gradstep_server.web.json_body import StrictJsonRoute
from gradstep_server.web.problems import responses
from gradstep_server.web.session_models import SessionAnswer
from gradstep_server.web.sessions import shown
from gradstep_server.web.tensor_answers import (
    file_answer,
    json_answer,
    params_answer,
    step_answer,
    wants_json,
)
from gradstep_server.web.tensor_bodies import SAFETENSORS, GradientsBody, ParamsBody

N = Annotated[
    int,
    Path(ge=1, le=MAX_COUNT, description="The position to take: the session's step plus one."),
]
Return = Annotated[
    Literal["params", "receipt"],
    Query(alias="return", description="`receipt` leaves the parameters out of the answer."),
]

_FILE = {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}
_BODY_FAILS = (InvalidRequest, MalformedBody, BodyTooLarge, UnsupportedMediaType)
_INITIAL_FAILS = responses(
    *_BODY_FAILS,
    InvalidConfig,
    InvalidTensors,
    SessionNotFound,
    ParamsConflict,
    GenerationMismatch,
)
_STEP_FAILS = responses(
    *_BODY_FAILS,
    InvalidTensors,
    NonFiniteGradient,
    SessionNotFound,
    ParamsMissing,
    PositionMismatch,
    StepConflict,
    GenerationMismatch,
    NotAcceptable,
    StorageFull,
    StoreUnavailable,
)


class ReceiptAnswer(Receipt):
    """What a step did; with `return=params` in JSON, the parameters stand in it too."""

    params: dict[str, Any] | None = None
    """Those of `position`, as nested lists by tensor name."""


class EpochBody(BaseModel):
    """What the client measured in an epoch."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    metric: Real | None = None
    """What a schedule such as ReduceLROnPlateau looks at; kept for the history."""


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """Declare a body that is JSON or safetensors, for OpenAPI."""
    schema = {"schema": model.model_json_schema()}
    content = {"application/json": schema, **_FILE}
    return {"requestBody": {"required": True, "content": content}}


def _answers(model: type[BaseModel], description: str, *statuses: int) -> dict[int | str, Any]:
    """Declare answers that are JSON or safetensors, for OpenAPI."""
    return {
        status: {"model": model, "description": description, "content": _FILE}
        for status in statuses
    }


router = APIRouter(prefix="/v1/sessions/{id}", tags=["steps"], route_class=StrictJsonRoute)


@router.put(
    "/steps/{n}",
    operation_id="putStep",
    status_code=201,
    summary="Take step n, exactly once, whatever is retried.",
    responses={**_answers(ReceiptAnswer, "Taken now, or before.", 201, 200), **_STEP_FAILS},
    openapi_extra=_body(GradientsBody),
)
async def put_step(
    request: Request,
    ref: RefOf,
    n: N,
    services: ServicesOf,
    generation: Generation = None,
    returned: Return = "params",
) -> Response:
    return await _step(request, ref, n, services, generation, returned)


@router.post(
    "/steps",
    operation_id="postStep",
    status_code=201,
    summary="Take the next step, whichever it is: for people; a retry steps again.",
    responses={**_answers(ReceiptAnswer, "Taken.", 201), **_STEP_FAILS},
    openapi_extra=_body(GradientsBody),
)
async def post_step(
    request: Request,
    ref: RefOf,
    services: ServicesOf,
    generation: Generation = None,
    returned: Return = "params",
) -> Response:
    return await _step(request, ref, None, services, generation, returned)


@router.get(
    "/steps/{n}",
    operation_id="getStep",
    summary="Read the receipt of step n again.",
    response_model=ReceiptAnswer,
    responses=responses(SessionNotFound, StepNotFound),
)
async def get_step(ref: RefOf, n: N, services: ServicesOf) -> Response:
    return json_answer(dict(await services.sessions.receipt(ref, n)))


@router.put(
    "/epochs/{e}",
    operation_id="putEpoch",
    status_code=201,
    summary="End epoch e, exactly once: moves a schedule that counts epochs.",
    response_model=EpochReceipt,
    responses={
        200: {"model": EpochReceipt, "description": "It had been ended before."},
        **responses(
            *_BODY_FAILS,
            SessionNotFound,
            EpochsNotUsed,
            PositionMismatch,
            StepConflict,
            GenerationMismatch,
        ),
    },
)
async def put_epoch(
    ref: RefOf,
    e: N,
    services: ServicesOf,
    body: EpochBody | None = None,
    generation: Generation = None,
) -> Response:
    metric = body.metric if body else None
    ended = await services.sessions.end_epoch(ref, e, metric, generation=generation)
    answer = json_answer(dict(ended))
    answer.status_code = 200 if ended.replayed else 201
    return answer


@router.put(
    "/params",
    operation_id="putParams",
    status_code=201,
    summary="Set the initial parameters, once; may be retried.",
    response_model=SessionAnswer,
    responses=_INITIAL_FAILS,
    openapi_extra=_body(ParamsBody),
)
async def put_params(
    request: Request, ref: RefOf, services: ServicesOf, generation: Generation = None
) -> Response:
    master = await services.sessions.master(ref)
    params = await tensor_bodies.params(request, master, services.limits)
    view = await services.sessions.set_params(ref, params, generation=generation)
    return shown(view, 200 if view.replayed else 201)


@router.get(
    "/params",
    operation_id="getParams",
    summary="Download the parameters.",
    responses={
        **_answers(ParamsBody, "The parameters.", 200),
        **responses(SessionNotFound, NotAcceptable),
    },
)
async def get_params(request: Request, ref: RefOf, services: ServicesOf) -> Response:
    as_json = wants_json(request, default=False)
    return params_answer(await services.sessions.params(ref), as_json=as_json)


@router.put(
    "/state",
    operation_id="putState",
    status_code=201,
    summary="Load a whole state into an empty session, whose position becomes the file's.",
    response_model=SessionAnswer,
    responses=_INITIAL_FAILS,
    openapi_extra={"requestBody": {"required": True, "content": _FILE}},
)
async def put_state(
    request: Request, ref: RefOf, services: ServicesOf, generation: Generation = None
) -> Response:
    tensors, metadata = await tensor_bodies.state(request, services.limits)
    file = imported(tensors, metadata)
    view = await services.sessions.set_state(ref, file, generation=generation)
    return shown(view, 200 if view.replayed else 201)


@router.get(
    "/state",
    operation_id="getState",
    summary="Download the whole state: masters, slots and counters by name.",
    responses={200: {"description": "The state.", "content": _FILE}, **responses(SessionNotFound)},
)
async def get_state(ref: RefOf, services: ServicesOf) -> Response:
    tensors, metadata = await services.sessions.state(ref)
    return file_answer(tensors, metadata, {})


async def _step(
    request: Request,
    ref: Ref,
    n: int | None,
    services: Services,
    generation: int | None,
    returned: str,
) -> Response:
    master = await services.sessions.master(ref)
    read = await tensor_bodies.gradients(request, master, services.limits)
    as_json = wants_json(request, default=read.json)
    stepped = await services.sessions.step(
        ref,
        n,
        read.tensors,
        read.asked,
        generation=generation,
        want_params=returned == "params",
    )
    return step_answer(stepped, as_json=as_json)
