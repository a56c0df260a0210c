"""``/v1/sessions``: creating, finding, changing and deleting sessions."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from gradstep_server.errors import InvalidRequest
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import (
    GenerationMismatch,
    InvalidConfig,
    InvalidTensors,
    PreconditionFailed,
    QuotaExceeded,
    SessionConflict,
    SessionDeleted,
    SessionNotFound,
    StorageFull,
    StoreUnavailable,
)
from gradstep_server.sessions.receipts import View
from gradstep_server.sessions.store import Ref
from gradstep_server.web import nested
from gradstep_server.web.access import (
    Generation,
    IfMatch,
    RefOf,
    Services,
    ServicesOf,
    TenantOf,
    etag,
)
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.session_models import (
    CreateSession,
    SessionAnswer,
    SessionList,
    answer,
    summary,
)
from gradstep_server.web.strict_route import StrictRoute

_CREATE_FAILS = responses(
    *BODY_FAILS,
    InvalidConfig,
    InvalidTensors,
    SessionConflict,
    SessionDeleted,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
)
REPLAYED: dict[int | str, dict[str, Any]] = {
    200: {"model": SessionAnswer, "description": "It had been done before."}
}
"""The answer to a request that makes a session, where the session was made before."""

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], route_class=StrictRoute)


@router.post(
    "",
    operation_id="createSession",
    status_code=201,
    summary="Create a session with an id of the server's choice; a retry makes another one.",
    response_model=SessionAnswer,
    responses=_CREATE_FAILS,
)
async def create_session(tenant: TenantOf, body: CreateSession, services: ServicesOf) -> Response:
    return await _create((tenant, secrets.token_hex(8)), body, services)


@router.put(
    "/{id}",
    operation_id="putSession",
    status_code=201,
    summary="Create a session with an id of the client's choice; may be retried.",
    response_model=SessionAnswer,
    responses={**REPLAYED, **_CREATE_FAILS},
)
async def put_session(ref: RefOf, body: CreateSession, services: ServicesOf) -> Response:
    return await _create(ref, body, services)


@router.get(
    "",
    operation_id="listSessions",
    summary="List sessions by id.",
    response_model=SessionList,
    responses=responses(InvalidRequest, StoreUnavailable),
)
async def list_sessions(
    tenant: TenantOf,
    services: ServicesOf,
    after: Annotated[str, Query(max_length=64, description="Only ids behind this one.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> SessionList:
    found = await services.sessions.list(tenant, after, limit + 1)
    shown = [summary(header, head) for header, head in found[:limit]]
    return SessionList(sessions=shown, next=shown[-1].id if len(found) > limit else None)


@router.get(
    "/{id}",
    operation_id="getSession",
    summary="Show a session: its configuration, and where it stands.",
    response_model=SessionAnswer,
    responses=responses(SessionNotFound, StoreUnavailable),
)
async def get_session(ref: RefOf, services: ServicesOf) -> Response:
    return shown(await services.sessions.view(ref))


@router.patch(
    "/{id}",
    operation_id="patchSession",
    summary="Change hyperparameters, from the next step on; may be retried with If-Match.",
    response_model=SessionAnswer,
    responses=responses(
        *BODY_FAILS, InvalidConfig, SessionNotFound, PreconditionFailed, GenerationMismatch
    ),
)
async def patch_session(
    ref: RefOf,
    body: ConfigPatch,
    services: ServicesOf,
    version: IfMatch,
    generation: Generation = None,
) -> Response:
    patched = services.sessions.patch(ref, body, generation=generation, version=version)
    return shown(await patched)


@router.delete(
    "/{id}",
    operation_id="deleteSession",
    status_code=204,
    summary="Delete a session for good; its id is never given again.",
    responses=responses(SessionNotFound, PreconditionFailed, GenerationMismatch, StoreUnavailable),
)
async def delete_session(
    ref: RefOf, services: ServicesOf, version: IfMatch, generation: Generation = None
) -> Response:
    replayed = await services.sessions.delete(ref, version=version, generation=generation)
    return Response(status_code=204, headers={"Gradstep-Replayed": str(replayed).lower()})


def shown(view: View, status: int = 200) -> Response:
    """Answer with a session and its ETag."""
    body = answer(view).model_dump_json()
    headers = {"ETag": etag((view.generation, view.seq))}
    return Response(body, status, headers, "application/json")


def created(view: View) -> Response:
    """Answer with a session that was made by this request, or before: 201 or 200."""
    response = shown(view, 200 if view.replayed else 201)
    response.headers["Location"] = f"/v1/sessions/{view.id}"
    return response


async def _create(ref: Ref, body: CreateSession, services: Services) -> Response:
    config = body.config()
    params = None
    if body.params is not None:
        params = await nested.read(
            body.params, config.dtype.master, "params", services.limits.tensors
        )
    return created(await services.sessions.create(ref, config, params))
