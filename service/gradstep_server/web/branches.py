"""``/v1/sessions/{id}/rewind`` and ``…/fork``: going back, and going another way."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from gradstep_server.kinds import Count
from gradstep_server.sessions.config import ForkConfig
from gradstep_server.sessions.errors import (
    GenerationMismatch,
    InvalidConfig,
    InvalidTensors,
    PreconditionFailed,
    QuotaExceeded,
    SessionConflict,
    SessionDeleted,
    SessionNotFound,
    StepGone,
    StepNotFound,
    StorageFull,
    StoreUnavailable,
)
from gradstep_server.web.access import Generation, IfMatch, RefOf, ServicesOf
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.session_models import ID_PATTERN, SessionAnswer
from gradstep_server.web.sessions import REPLAYED, created, shown
from gradstep_server.web.strict_route import StrictRoute

_FORK_EXAMPLE: dict[str, Any] = {
    "id": "digits-1-slower",
    "step": 1000,
    "lr": 0.0001,
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 500},
}
_BACK_FAILS = (
    *BODY_FAILS,
    SessionNotFound,
    StepNotFound,
    StepGone,
    GenerationMismatch,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
)

router = APIRouter(prefix="/v1/sessions/{id}", tags=["sessions"], route_class=StrictRoute)


class RewindSession(BaseModel):
    """Where a session goes back to."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"step": 1000}]},
    )

    step: Count
    """The last step that is to stay; 0 for the initial parameters."""


class ForkSession(ForkConfig):
    """Where a new session begins, and what it does otherwise."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FORK_EXAMPLE]})

    id: Annotated[str, StringConstraints(pattern=ID_PATTERN)] | None = None
    """The id of the new session. With it the request may be retried; without it
    the server chooses one, and a retry makes another session."""

    step: Count | None = None
    """The step right after which the new session begins; by default it begins as
    the session stands."""

    def changes(self) -> ForkConfig:
        """Return what the new session does otherwise, alone."""
        sent = self.model_fields_set & ForkConfig.model_fields.keys()
        return ForkConfig.model_construct(sent, **{name: getattr(self, name) for name in sent})


@router.post(
    "/rewind",
    operation_id="rewindSession",
    summary="Go back to how it was right after step k; may be retried with If-Match.",
    response_model=SessionAnswer,
    responses=responses(*_BACK_FAILS, PreconditionFailed),
)
async def rewind_session(
    ref: RefOf,
    body: RewindSession,
    services: ServicesOf,
    version: IfMatch,
    generation: Generation = None,
) -> Response:
    rewound = services.sessions.rewind(ref, body.step, generation=generation, version=version)
    return shown(await rewound)


@router.post(
    "/fork",
    operation_id="forkSession",
    status_code=201,
    summary="Begin another session right after step k; may be retried if the body has an id.",
    response_model=SessionAnswer,
    responses={
        **REPLAYED,
        **responses(*_BACK_FAILS, InvalidConfig, InvalidTensors, SessionConflict, SessionDeleted),
    },
)
async def fork_session(
    ref: RefOf, body: ForkSession, services: ServicesOf, generation: Generation = None
) -> Response:
    new_id = body.id or secrets.token_hex(8)
    fork = services.sessions.fork(ref, new_id, body.step, body.changes(), generation=generation)
    return created(await fork)
