"""Routes that take nothing but what they declare: a JSON body read strictly, a known query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BeforeValidator

from gradstep_server.errors import Fault, InvalidRequest, pointer
from gradstep_server.web import json_body
from gradstep_server.web.pointers import MAX_FAULTS

_MAX_NAME = 64

FENCE = "Gradstep-Generation"
"""The header that fences a write against rewinds; of two, FastAPI would take the first."""


def _digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("must be a whole number, written in decimal digits")
    return value


Decimal = BeforeValidator(_digits)
"""For a number in a path or a query: refuses what pydantic would read as a whole
number beside digits, such as ``2.0``."""


class _ParsedRequest(Request):
    """A request whose body was read and parsed before FastAPI asks for it."""

    async def load(self, limit: int) -> None:
        body = await json_body.read(self, limit)
        # These are the places in which Starlette's own body() and json() keep their answers.
        self._body = body
        if body:
            json_body.require_json_type(self.headers)
            self._json = json_body.parse(body)


class StrictRoute(APIRoute):
    """A route that refuses unknown query parameters, and parses JSON by `json_body`.

    FastAPI ignores what the query says beyond the parameters of a route, and all
    but the last of those that come twice; this route answers 422. FastAPI also
    reads a body of another type as text, accepts NaN, and turns what it cannot
    parse into a bare 400; this route answers 415 or 400 with a reason.

    A route that declares its query by ``openapi_extra`` takes the request and reads
    it by itself; FastAPI would only take its time to find that nothing is left to do.
    """

    json_limit: ClassVar[int] = json_body.LIMIT
    """The largest body in bytes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls for each request."""
        if "parameters" in (self.openapi_extra or {}):
            endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
            return endpoint
        handle = super().get_route_handler()
        known = set(_query(self.dependant))

        async def handle_strictly(request: Request) -> Response:
            _refuse_unknown(request, known)
            _refuse_repeated(request)
            _refuse_second_fence(request)
            if self.body_field is not None:
                request = _ParsedRequest(request.scope, request.receive)
                await request.load(self.json_limit)
            return await handle(request)

        return handle_strictly


def _query(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters that a route and its dependencies declare."""
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query(inner)


def _refuse_unknown(request: Request, known: set[str]) -> None:
    there = f"there are {', '.join(sorted(known))}" if known else "there are none"
    faults = [
        Fault(pointer("query", name[:_MAX_NAME]), f"there is no parameter of this name; {there}")
        for name in dict.fromkeys(request.query_params)
        if name not in known
    ]
    if faults:
        raise InvalidRequest(*faults[:MAX_FAULTS])


def _refuse_repeated(request: Request) -> None:
    sent = Counter(name for name, _ in request.query_params.multi_items())
    faults = [
        Fault(pointer("query", name), f"is there {count} times; send it once")
        for name, count in sent.items()
        if count > 1
    ]
    if faults:
        raise InvalidRequest(*faults[:MAX_FAULTS])


def _refuse_second_fence(request: Request) -> None:
    count = len(request.headers.getlist(FENCE))
    if count > 1:
        raise InvalidRequest(Fault(f"/header/{FENCE}", f"is there {count} times; send it once"))
