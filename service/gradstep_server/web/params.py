"""``/v1/sessions/{id}/params`` and ``…/state``: what a session holds, up and down."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gradstep_server.sessions.errors import (
    GenerationMismatch,
    InvalidConfig,
    InvalidTensors,
    ParamsConflict,
    SessionNotFound,
)
from gradstep_server.sessions.tensors import total_size
from gradstep_server.sessions.transfer import imported
from gradstep_server.web import tensor_answers, tensor_bodies
from gradstep_server.web.access import Generation, RefOf, ServicesOf
from gradstep_server.web.errors import NotAcceptable
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.session_models import SessionAnswer
from gradstep_server.web.sessions import shown
from gradstep_server.web.strict_route import StrictRoute
from gradstep_server.web.tensor_answers import (
    file_answer,
    params_answer,
    require_file,
    require_small,
    wants_json,
)
from gradstep_server.web.tensor_bodies import FILE, ParamsBody

_INITIAL_FAILS = responses(
    *BODY_FAILS,
    InvalidConfig,
    InvalidTensors,
    SessionNotFound,
    ParamsConflict,
    GenerationMismatch,
)

router = APIRouter(prefix="/v1/sessions/{id}", tags=["params"], route_class=StrictRoute)


@router.put(
    "/params",
    operation_id="putParams",
    status_code=201,
    summary="Set the initial parameters, once; may be retried.",
    response_model=SessionAnswer,
    responses=_INITIAL_FAILS,
    openapi_extra=tensor_bodies.declared(ParamsBody),
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
    description=tensor_answers.SIZES,
    responses={
        **tensor_answers.declared(ParamsBody, "The parameters.", 200),
        **responses(SessionNotFound, NotAcceptable),
    },
)
async def get_params(request: Request, ref: RefOf, services: ServicesOf) -> Response:
    as_json = wants_json(request, default=False)
    params = await services.sessions.params(ref)
    if as_json:
        require_small(total_size(params.tensors))
    return await params_answer(params, as_json=as_json)


@router.put(
    "/state",
    operation_id="putState",
    status_code=201,
    summary="Load a whole state into an empty session, whose position becomes the file's.",
    response_model=SessionAnswer,
    responses=_INITIAL_FAILS,
    openapi_extra={"requestBody": {"required": True, "content": FILE}},
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
    responses={
        200: {"description": "The state.", "content": FILE},
        **responses(SessionNotFound, NotAcceptable),
    },
)
async def get_state(request: Request, ref: RefOf, services: ServicesOf) -> Response:
    require_file(request)
    tensors, metadata = await services.sessions.state(ref)
    return file_answer(tensors, metadata, {})
