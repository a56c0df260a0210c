"""Whatever fails answers with one shape: RFC 9457 ``application/problem+json``.

The classes of errors are in `sessions.errors` and `web.errors`; this module
gives each a status. FastAPI's and Starlette's own errors, and defects, take the
same shape.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.errors import Fault, GradstepError, InvalidRequest, NotFound
from gradstep_server.sessions import errors
from gradstep_server.web.errors import (
    BodyTooLarge,
    Draining,
    Forbidden,
    MalformedBody,
    MalformedRequest,
    NotAcceptable,
    RequestTimeout,
    TooManyConnections,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)
from gradstep_server.web.pointers import MAX_FAULTS, clause, request_faults

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("gradstep_server")

STATUS: Mapping[type[GradstepError], int] = {
    InvalidRequest: 422,
    NotFound: 404,
    errors.Conflict: 409,
    errors.StepGone: 410,
    errors.PreconditionFailed: 412,
    errors.StoreUnavailable: 503,
    errors.StorageFull: 507,
    errors.QuotaExceeded: 507,
    errors.Busy: 503,
    errors.MemoryExhausted: 503,
    errors.SessionCorrupt: 500,
    MalformedRequest: 400,
    MalformedBody: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    UnsupportedMediaType: 415,
    NotAcceptable: 406,
    RequestTimeout: 408,
    BodyTooLarge: 413,
    TooManyRequests: 429,
    TooManyConnections: 503,
    Draining: 503,
}
"""The status of each class and of those below it."""

RETRY_AFTER: Mapping[type[GradstepError], int] = {
    errors.StoreUnavailable: 1,
    errors.Busy: 1,
    errors.MemoryExhausted: 5,
    TooManyConnections: 1,
    Draining: 1,
}
"""Seconds after which the same request is worth another try."""

_PARAMETER = re.compile(r"\{[^}]+\}")
_FRAMEWORK_CODES = {
    400: (MalformedBody.code, MalformedBody.title),
    404: ("not-found", "There is no such address"),
    405: ("method-not-allowed", "The method is not allowed here"),
}

BODY_FAILS = (
    InvalidRequest,
    MalformedBody,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
)
"""What every route with a body can answer."""


class WrongPlace(BaseModel):
    """One wrong place in a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pointer: str
    """A JSON pointer (RFC 6901) into what was sent; empty for the whole of it."""

    detail: str
    """What is wrong there."""


class Problem(BaseModel):
    """What every failure answers with (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="allow")

    type: str
    """``urn:gradstep:problem:`` and the code."""

    title: str
    """The class of problem in a few words, the same for every occurrence."""

    status: int
    """The HTTP status again."""

    detail: str
    """What is wrong this time, and what to do about it."""

    code: str
    """A stable name for programs."""

    request_id: str
    """The id of this request, as in the ``X-Request-Id`` header."""

    pointer: str | None = None
    """The first wrong place, where a place is at fault."""

    errors: list[WrongPlace] | None = None
    """The first 20 wrong places that were found, where places are at fault."""


def status_of(error: type[GradstepError]) -> int:
    """Return the status of a class of errors: its own, or that of its nearest ancestor."""
    return next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)


def responses(*classes: type[GradstepError]) -> dict[int | str, dict[str, Any]]:
    """Declare the failures of a route for OpenAPI, for its ``responses=``."""
    declared: dict[int | str, dict[str, Any]] = {}
    for cls in classes:
        line = f"`{cls.code}`: {cls.title}."
        entry = declared.setdefault(status_of(cls), {"model": Problem, "description": line})
        if line not in entry["description"]:
            entry["description"] += f" {line}"
    return declared


def render(
    request: Request, error: GradstepError, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a problem, and with further headers if there are any."""
    cls = type(error)
    faults = error.faults if isinstance(error, InvalidRequest) else ()
    if cls in RETRY_AFTER:
        headers = {"Retry-After": str(RETRY_AFTER[cls]), **(headers or {})}
    return _document(
        request, status_of(cls), error.code, error.title, error.detail, faults, error.extra, headers
    )


def _document(
    request: Request,
    status: int,
    code: str,
    title: str,
    detail: str,
    faults: Sequence[Fault] = (),
    extra: Mapping[str, int | str | None] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    state = request.scope.setdefault("state", {})
    state["problem"] = code  # for the log
    problem: dict[str, Any] = {
        "type": f"urn:gradstep:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": state.get("request_id", ""),
        **(extra or {}),
    }
    if faults:
        problem["pointer"] = faults[0].pointer
        problem["errors"] = [
            {"pointer": f.pointer, "detail": f.detail} for f in faults[:MAX_FAULTS]
        ]
    return Response(orjson.dumps(problem), status, headers, MEDIA_TYPE)


async def _gradstep_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, GradstepError):
        raise error
    if status_of(type(error)) == HTTPStatus.INTERNAL_SERVER_ERROR:
        request_id = request.scope.get("state", {}).get("request_id", "")
        where = f"{request.method} {request.url.path}"
        _log.error("%s: %s (%s, request %s)", error.code, error.detail, where, request_id)
    return render(request, error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return render(request, InvalidRequest(*request_faults(error.errors(), error.body)))


async def _framework_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    code, title = _FRAMEWORK_CODES.get(status, ("invalid-request", "The request is not valid"))
    path, headers = request.url.path[:128], error.headers
    match status:
        case 404:
            detail = f"there is nothing at {path}; /docs lists what there is"
        case 405:
            allowed = ", ".join(_allowed(request))
            headers = {"Allow": allowed}
            detail = f"the method {request.method} is not allowed at {path}; allowed: {allowed}"
        case _:
            detail = clause(error.detail)
    return _document(request, status, code, title, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes of an address; Starlette knows only the first one's."""
    app: FastAPI = request.app
    paths: Mapping[str, Mapping[str, object]] = app.openapi()["paths"]
    allowed = {
        method.upper()
        for template, operations in paths.items()
        if re.fullmatch(_PARAMETER.sub("[^/]+", template), request.url.path)
        for method in operations
    }
    return sorted(allowed | ({"HEAD"} if "GET" in allowed else set()))


async def _disconnected(request: Request, error: Exception) -> Response:  # noqa: ARG001 - Starlette calls with both
    """Nobody reads this answer: the client left before its body was whole."""
    return render(request, MalformedBody("the connection ended before the body did"))


class UnhandledErrors:
    """ASGI middleware: a defect is logged with its traceback and answered with a 500.

    What is cut off because the service ends is answered with a 503: a retry is safe.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and answer for it if it fails before it has answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except asyncio.CancelledError:
            if not started:
                error = Draining("the service ended before this was answered; send it again")
                await render(Request(scope), error)(scope, receive, send)
            raise
        except Exception:
            if started:  # the server must cut the answer off, so that it is seen to be broken
                raise
            request = Request(scope)
            request_id = scope.get("state", {}).get("request_id", "")
            _log.exception("%s %s failed, request %s", request.method, request.url.path, request_id)
            detail = "this is a defect of the server; its log tells more under this request_id"
            response = _document(request, 500, "internal-error", "The server failed", detail)
            await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Make every failure of `app` a problem."""
    app.add_exception_handler(GradstepError, _gradstep_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_middleware(UnhandledErrors)
