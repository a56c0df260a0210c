"""What every session route needs: the sessions, whose they are, and the versions sent."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.kinds import MAX_COUNT
from gradstep_server.sessions.buffers import Buffers
from gradstep_server.sessions.errors import SessionNotFound
from gradstep_server.sessions.guards import Version
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Ref
from gradstep_server.web.authentication import holder_of
from gradstep_server.web.session_models import SessionId
from gradstep_server.web.strict_route import FENCE, Decimal

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_VERSION = re.compile(r'(?<!W/)"([0-9]{1,16})-([0-9]{1,16})"')
_NEVER: Version = (0, MAX_COUNT)
"""A version that no session ever has."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the composition root hands to the session routes, as `app.state.services`."""

    sessions: Sessions
    limits: Limits
    max_points: int
    buffers: Buffers


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _tenant(request: Request) -> str:
    return holder_of(request).tenant


def ref_of(request: Request, session_id: str) -> Ref:
    """Return which session a request means by an id: one of its own tenant's."""
    ref = holder_of(request).tenant, session_id
    request.state.session = ref  # for the log
    return ref


async def _ref(request: Request, id: SessionId) -> Ref:  # noqa: A002 - the parameter's name on the wire
    return ref_of(request, id)


ServicesOf = Annotated[Services, Depends(_services)]
TenantOf = Annotated[str, Depends(_tenant)]
RefOf = Annotated[Ref, Depends(_ref)]


def _versions(if_match: str) -> list[Version]:
    """Return the versions that a list of tags may mean; weak tags and others' mean none."""
    if not _TAGS.fullmatch(if_match):
        detail = 'must hold ETags of the session, such as "1-5", or be *'
        raise InvalidRequest(Fault("/header/if-match", detail))
    return [(int(found[1]), int(found[2])) for found in _VERSION.finditer(if_match)]


async def _version(
    ref: RefOf,
    services: ServicesOf,
    if_match: Annotated[
        list[str] | None, Header(description="The ETags of which the session must have one.")
    ] = None,
) -> Version | None:
    """Return the version that must be current: of several the one that is, or the newest."""
    sent = ",".join(if_match or ["*"])
    if sent.strip() == "*":
        return None
    versions = _versions(sent)
    if len(versions) > 1:
        with suppress(SessionNotFound):
            view = await services.sessions.view(ref)
            if (view.generation, view.seq) in versions:
                return view.generation, view.seq
    return max(versions, default=_NEVER)


IfMatch = Annotated[Version | None, Depends(_version)]
Generation = Annotated[
    Annotated[int, Decimal] | None,
    Header(
        alias=FENCE,
        description="The generation that the client knows; another one is refused. Without "
        "it, a write is not fenced against rewinds.",
    ),
]


def etag(version: Version) -> str:
    """Return the ETag of a session at a version."""
    return f'"{version[0]}-{version[1]}"'
