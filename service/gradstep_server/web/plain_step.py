"""A step's parameters, read at once where they are written as the SDK writes them.

FastAPI reads each parameter of a route by itself, through pydantic, which for
all of a step's takes longer than a small step. So `PlainStepRoute` first looks
whether the address, the query and the headers are plain: each there once, with
nothing to be corrected or refused. If they are not, FastAPI reads them, and
says what is wrong; nothing is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.types import Receive, Scope, Send

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.sessions.tensors import DType
from gradstep_server.web.access import ref_of
from gradstep_server.web.session_models import ID_PATTERN
from gradstep_server.web.strict_route import FENCE, StrictRoute

_ID = re.compile(ID_PATTERN)
_FENCE = FENCE.lower().encode()
_NUMBER = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)
_QUERY: dict[str, Callable[[str], bool]] = {
    "return": lambda text: text in {"params", "receipt"},
    "dtype": DType.__members__.__contains__,
    "loss": bool,
    "lr": bool,
}


class PlainStepRoute(StrictRoute):
    """The route of one numbered step."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a plain step at once, past what FastAPI builds up around a route's function."""
        request = Request(scope, receive, send)
        plain = plain_step(request) if scope["method"] in (self.methods or ()) else None
        if plain is None:
            await super().handle(scope, receive, send)
        else:
            response = await self.endpoint(request=request, **plain)
            await response(scope, receive, send)


def plain_step(request: Request) -> dict[str, Any] | None:
    """Return the arguments of the step's function beside the request, None if one is not plain."""
    session_id, n = request.path_params["id"], _number(request.path_params["n"])
    generation = _generation(request)
    query = _query(request.scope["query_string"])
    if not _ID.fullmatch(session_id) or n is None or generation == 0 or query is None:
        return None
    dtype = query.get("dtype")
    return {
        "ref": ref_of(request, session_id),
        "n": n,
        "services": request.app.state.services,
        "said": {name: query[name] for name in ("loss", "lr") if name in query},
        "generation": generation,
        "returned": query.get("return", "params"),
        "dtype": None if dtype is None else DType(dtype),
    }


def _number(text: str) -> int | None:
    """Return a number from 1 that is written in digits, None for any other text."""
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if number <= MAX_COUNT else None


def _generation(request: Request) -> int | None:
    """Return the generation that the headers name; 0 if it is not plain, None if there is none."""
    found = [value for name, value in request.scope["headers"] if name == _FENCE]
    if not found:
        return None
    return (_number(found[0].decode("latin-1")) or 0) if len(found) == 1 else 0


def _query(text: bytes) -> dict[str, str] | None:
    """Return what a query says, None unless each name is known, there once, and of a known form."""
    pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True) if text else []
    query = dict(pairs)
    known = all(name in _QUERY and _QUERY[name](value) for name, value in pairs)
    return query if known and len(query) == len(pairs) else None
