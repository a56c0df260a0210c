"""Which error a problem is: that of its code, or else of its status."""

from __future__ import annotations

from collections.abc import Mapping

from gradstep._errors import (
    ApiError,
    BadRequest,
    BodyTooLarge,
    Conflict,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PreconditionFailed,
    RequestTimeout,
    ServerError,
    StepGone,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from gradstep._types import Problem


def _by_code(base: type[ApiError]) -> dict[str, type[ApiError]]:
    code = vars(base).get("problem_code")
    found = {code: base} if code else {}
    for sub in base.__subclasses__():
        found |= _by_code(sub)
    return found


CLASS_OF_CODE = _by_code(ApiError)

CLASS_OF_STATUS: Mapping[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    406: NotAcceptable,
    408: RequestTimeout,
    409: Conflict,
    410: StepGone,
    412: PreconditionFailed,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
    422: InvalidRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}


def error_for(problem: Problem) -> ApiError:
    """Return the error of a problem: by its code, else by its status.

    Args:
        problem: What the server said.
    """
    fallback = ServerError if problem.status >= 500 else ApiError  # noqa: PLR2004 - HTTP's own
    by_status = CLASS_OF_STATUS.get(problem.status, fallback)
    return CLASS_OF_CODE.get(problem.code or "", by_status)(problem)
