"""What only HTTP can get wrong: classes beside those of `sessions.errors`.

GradstepError
├── MalformedRequest          what came is not HTTP, or its address is too long
├── MalformedBody             the body is not JSON, or not whole
├── UnsupportedMediaType      the body is in a form that this route does not read
├── NotAcceptable             Accept names no form that this route writes
├── BodyTooLarge              the body exceeds a limit
├── RequestTimeout            the client is too slow with its request
├── TooManyConnections        there are as many as there may be
├── Unauthenticated           no key was sent, or none that is in force
├── Forbidden                 the key's role does not allow it
├── TooManyRequests           the sender's rate limit is used up
├── Draining                  the service was told to end, and soon will
└── NotFound
    └── UnknownKind           no scheduler or optimizer has this name
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from gradstep_server.errors import GradstepError, NotFound


class MalformedRequest(GradstepError):
    """Raised when what came on a connection cannot be read as a request."""

    code = "malformed-request"
    title = "The request is not HTTP/1.1"


class MalformedBody(GradstepError):
    """Raised when a body cannot be parsed at all."""

    code = "malformed-body"
    title = "The body cannot be read"


class UnsupportedMediaType(GradstepError):
    """Raised when Content-Type or Content-Encoding is none that the route reads."""

    code = "unsupported-media-type"
    title = "The body's media type is not supported"


class NotAcceptable(GradstepError):
    """Raised when Accept names no form that the route writes."""

    code = "not-acceptable"
    title = "The answer cannot be written in the form asked for"


class BodyTooLarge(GradstepError):
    """Raised when a body exceeds the limit."""

    code = "body-too-large"
    title = "The body is too large"


class RequestTimeout(GradstepError):
    """Raised when a request comes more slowly than a client may be."""

    code = "request-timeout"
    title = "The request came too slowly"


class TooManyConnections(GradstepError):
    """Raised when a process has as many connections as it may have."""

    code = "too-many-connections"
    title = "There are too many connections"


class Unauthenticated(GradstepError):
    """Raised when a request needs a key and has none that is in force."""

    code = "unauthenticated"
    title = "A key is needed"


class Forbidden(GradstepError):
    """Raised when the key is in force, and its role does not allow what is asked."""

    code = "forbidden"
    title = "The key does not allow this"


class TooManyRequests(GradstepError):
    """Raised when a tenant, or an address, sends more than it may in a time."""

    code = "too-many-requests"
    title = "Too many requests"


class Draining(GradstepError):
    """Raised where readiness is asked for when the service was told to end."""

    code = "draining"
    title = "The service is about to end"


class UnknownKind(NotFound):
    """Raised when no scheduler or optimizer has this name."""

    code = "unknown-kind"
    title = "There is no such kind"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        super().__init__(f"{name[:64]!r} is not known; {hint}the kinds are {', '.join(names)}")
