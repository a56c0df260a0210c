"""``/v1/sessions/{id}/steps`` and ``…/epochs``: what moves a session on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gradstep_server.kinds import MAX_COUNT, Real
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    GenerationMismatch,
    InvalidTensors,
    NonFiniteGradient,
    ParamsMissing,
    PositionMismatch,
    QuotaExceeded,
    SessionNotFound,
    StepConflict,
    StepNotFound,
    StorageFull,
    StoreUnavailable,
)
from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.receipts import EpochReceipt, Receipt
from gradstep_server.sessions.store import Ref
from gradstep_server.sessions.tensors import DType
from gradstep_server.web import tensor_answers, tensor_bodies
from gradstep_server.web.access import Generation, RefOf, Services, ServicesOf, etag
from gradstep_server.web.errors import NotAcceptable
from gradstep_server.web.plain_step import PlainStepRoute
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.strict_route import Decimal, StrictRoute
from gradstep_server.web.tensor_answers import (
    Narrowed,
    chosen,
    json_answer,
    require_half,
    require_small,
    step_answer,
)
from gradstep_server.web.tensor_bodies import GradientsBody, Said

N = Annotated[
    int,
    Path(ge=1, le=MAX_COUNT, description="The position to take: the session's step plus one."),
    Decimal,
]
Return = Annotated[
    Literal["params", "receipt"],
    Query(alias="return", description="`receipt` leaves the parameters out of the answer."),
]

_STEP_FAILS = responses(
    *BODY_FAILS,
    InvalidTensors,
    NonFiniteGradient,
    SessionNotFound,
    ParamsMissing,
    PositionMismatch,
    StepConflict,
    GenerationMismatch,
    NotAcceptable,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a step is to answer with, beside its receipt."""

    params: bool
    dtype: DType | None


class ReceiptAnswer(Receipt):
    """What a step did; with `return=params` in JSON, the parameters stand in it too."""

    params: dict[str, Any] | None = None
    """Those of `position`, as nested lists by tensor name."""


class EpochBody(BaseModel):
    """What the client measured in an epoch."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    metric: Real | None = None
    """A metric of the epoch, to be read again with `GET …/epochs/{e}`; a scheduler that follows
    a metric needs it."""


class EpochAnswer(EpochReceipt):
    """What the end of one epoch did."""

    seq: Annotated[int, Field(exclude=True)]
    """Where the log stands, which the ETag says."""


router = APIRouter(prefix="/v1/sessions/{id}", tags=["steps"], route_class=StrictRoute)


async def put_step(
    request: Request,
    ref: RefOf,
    n: N,
    services: ServicesOf,
    said: Said,
    generation: Generation = None,
    returned: Return = "params",
    dtype: Narrowed = None,
) -> Response:
    answer = Wanted(returned == "params", dtype)
    return await _step(request, ref, n, services, said, generation, answer)


router.add_api_route(
    "/steps/{n}",
    put_step,
    methods=["PUT"],
    route_class_override=PlainStepRoute,
    operation_id="putStep",
    status_code=201,
    summary="Take step n, exactly once, whatever is retried.",
    description=tensor_answers.SIZES,
    responses={
        **tensor_answers.declared(ReceiptAnswer, "Taken now, or before.", 201, 200),
        **_STEP_FAILS,
    },
    openapi_extra=tensor_bodies.declared(GradientsBody),
)


@router.post(
    "/steps",
    operation_id="postStep",
    status_code=201,
    summary="Take the next step, whichever it is: for people; a retry steps again.",
    description=tensor_answers.SIZES,
    responses={**tensor_answers.declared(ReceiptAnswer, "Taken.", 201), **_STEP_FAILS},
    openapi_extra=tensor_bodies.declared(GradientsBody),
)
async def post_step(
    request: Request,
    ref: RefOf,
    services: ServicesOf,
    said: Said,
    generation: Generation = None,
    returned: Return = "params",
    dtype: Narrowed = None,
) -> Response:
    answer = Wanted(returned == "params", dtype)
    return await _step(request, ref, None, services, said, generation, answer)


@router.get(
    "/steps/{n}",
    operation_id="getStep",
    summary="Read the receipt of step n again.",
    response_model=ReceiptAnswer,
    responses=responses(SessionNotFound, StepNotFound),
)
async def get_step(ref: RefOf, n: N, services: ServicesOf) -> Response:
    return json_answer((await services.sessions.receipt(ref, n)).model_dump())


@router.put(
    "/epochs/{e}",
    operation_id="putEpoch",
    status_code=201,
    summary="End epoch e, exactly once: moves a schedule that counts epochs.",
    response_model=EpochAnswer,
    responses={
        200: {"model": EpochAnswer, "description": "It had been ended before."},
        **responses(
            *BODY_FAILS,
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
    return _epoch_answer(ended)


@router.get(
    "/epochs/{e}",
    operation_id="getEpoch",
    summary="Read what ended epoch e again: its metric.",
    response_model=EpochAnswer,
    responses=responses(SessionNotFound, StepNotFound),
)
async def get_epoch(ref: RefOf, e: N, services: ServicesOf) -> Response:
    return _epoch_answer(await services.sessions.epoch_receipt(ref, e))


def _epoch_answer(ended: EpochReceipt) -> Response:
    headers = {"ETag": etag((ended.generation, ended.seq))}
    answer = json_answer(ended.model_dump(exclude={"seq"}), headers)
    answer.status_code = 200 if ended.replayed else 201
    return answer


async def _step(
    request: Request,
    ref: Ref,
    n: int | None,
    services: Services,
    said: Mapping[str, str],
    generation: int | None,
    wanted: Wanted,
) -> Response:
    own = await services.sessions.dtype(ref)
    require_half(own, wanted.dtype)
    laps = request.state.laps = Laps()
    read = await tensor_bodies.gradients(
        request, said, own.master, services.limits, services.buffers, laps
    )
    form = chosen(request, own, wanted.dtype, json_first=read.json)
    if form.json and wanted.params:  # refused before the step is taken
        await require_small(request, await services.sessions.elements(ref))
    stepped = await services.sessions.step(
        ref,
        n,
        read.tensors,
        read.asked,
        generation=generation,
        want_params=wanted.params,
        dtype=form.dtype,
        laps=laps,
    )
    return await step_answer(stepped, form)
