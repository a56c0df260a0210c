"""What every session route needs: the sessions, whose they are, and the versions sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from gradstep_server.sessions.errors import Fault, InvalidRequest
from gradstep_server.sessions.hot import Ref
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.service import Sessions, Version
from gradstep_server.web.session_models import SessionId

TENANT = "default"
"""The one tenant there is as long as there are no keys."""

_ETAG = re.compile(r'"(\d{1,16})-(\d{1,16})"')


@dataclass(frozen=True, slots=True)
class Services:
    """What the composition root hands to the session routes, as `app.state.services`."""

    sessions: Sessions
    limits: Limits
    max_points: int


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _ref(id: SessionId) -> Ref:  # noqa: A002 - the parameter's name on the wire
    return TENANT, id


def _version(if_match: Annotated[str | None, Header()] = None) -> Version | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        detail = 'must be the ETag of the session, such as "1-5", or *'
        raise InvalidRequest(Fault("/header/if-match", detail))
    return int(match[1]), int(match[2])


ServicesOf = Annotated[Services, Depends(_services)]
RefOf = Annotated[Ref, Depends(_ref)]
IfMatch = Annotated[Version | None, Depends(_version)]
Generation = Annotated[
    int | None,
    Header(
        alias="Gradstep-Generation",
        description="The generation that the client knows; another one is refused. Without "
        "it, a write is not fenced against rewinds.",
    ),
]


def etag(version: Version) -> str:
    """Return the ETag of a session at a version."""
    return f'"{version[0]}-{version[1]}"'
