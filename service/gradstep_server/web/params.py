"""``/v1/sessions/{id}/params`` and ``…/state``: what a session holds, up and down."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.sessions.errors import (
    GenerationMismatch,
    InvalidConfig,
    InvalidTensors,
    ParamsConflict,
    ParamsMissing,
    QuotaExceeded,
    SessionNotFound,
    StepGone,
    StepNotFound,
    StorageFull,
)
from gradstep_server.sessions.transfer import imported
from gradstep_server.web import tensor_answers, tensor_bodies
from gradstep_server.web.access import Generation, RefOf, ServicesOf
from gradstep_server.web.errors import NotAcceptable
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.session_models import SessionAnswer
from gradstep_server.web.sessions import REPLAYED, shown
from gradstep_server.web.strict_route import Decimal, StrictRoute
from gradstep_server.web.tensor_answers import (
    Narrowed,
    chosen,
    file_answer,
    params_answer,
    require_file,
    require_half,
    require_small,
)
from gradstep_server.web.tensor_bodies import FILE, ParamsBody

_INITIAL_FAILS = responses(
    *BODY_FAILS,
    InvalidConfig,
    InvalidTensors,
    SessionNotFound,
    ParamsConflict,
    GenerationMismatch,
    StorageFull,
    QuotaExceeded,
)

At = Annotated[
    int | None,
    Query(ge=0, le=MAX_COUNT, description="As right after this step; by default as it stands."),
    Decimal,
]

router = APIRouter(prefix="/v1/sessions/{id}", tags=["params"], route_class=StrictRoute)


@router.put(
    "/params",
    operation_id="putParams",
    status_code=201,
    summary="Set the initial parameters, once; may be retried.",
    response_model=SessionAnswer,
    responses={**REPLAYED, **_INITIAL_FAILS},
    openapi_extra=tensor_bodies.declared(ParamsBody),
)
async def put_params(
    request: Request, ref: RefOf, services: ServicesOf, generation: Generation = None
) -> Response:
    dtype = await services.sessions.dtype(ref)
    params = await tensor_bodies.params(request, dtype.master, services.limits, services.buffers)
    view = await services.sessions.set_params(ref, params, generation=generation)
    return shown(view, 200 if view.replayed else 201)


@router.get(
    "/params",
    operation_id="getParams",
    summary="Download the parameters, as they stand or as right after step k.",
    description=tensor_answers.SIZES,
    responses={
        **tensor_answers.declared(ParamsBody, "The parameters.", 200),
        **responses(SessionNotFound, StepNotFound, StepGone, ParamsMissing, NotAcceptable),
    },
)
async def get_params(
    request: Request, ref: RefOf, services: ServicesOf, step: At = None, dtype: Narrowed = None
) -> Response:
    own = await services.sessions.dtype(ref)
    require_half(own, dtype)
    form = chosen(request, own, dtype, json_first=False)
    if form.json:  # refused before a past state is made again
        await require_small(request, await services.sessions.elements(ref))
    params = await services.sessions.params(ref, step, form.dtype)
    return await params_answer(params, form)


@router.put(
    "/state",
    operation_id="putState",
    status_code=201,
    summary="Load a whole state into an empty session, whose position becomes the file's.",
    response_model=SessionAnswer,
    responses={**REPLAYED, **_INITIAL_FAILS},
    openapi_extra={"requestBody": {"required": True, "content": FILE}},
)
async def put_state(
    request: Request, ref: RefOf, services: ServicesOf, generation: Generation = None
) -> Response:
    tensors, metadata = await tensor_bodies.state(request, services.limits, services.buffers)
    file = imported(tensors, metadata)
    view = await services.sessions.set_state(ref, file, generation=generation)
    return shown(view, 200 if view.replayed else 201)


@router.get(
    "/state",
    operation_id="getState",
    summary="Download the whole state, as it stands or as right after step k.",
    description="Masters, slots and counters by name, and the configuration.",
    responses={
        200: {"description": "The state.", "content": FILE},
        **responses(SessionNotFound, StepNotFound, StepGone, ParamsMissing, NotAcceptable),
    },
)
async def get_state(
    request: Request, ref: RefOf, services: ServicesOf, step: At = None
) -> Response:
    require_file(request)
    tensors, metadata = await services.sessions.state(ref, step)
    return file_answer(tensors, metadata, {})
