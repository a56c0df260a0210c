"""A problem as bytes, for a connection whose request never reached the application."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from http import HTTPStatus

from fastapi import Request

from gradstep_server.errors import GradstepError
from gradstep_server.web import request_id, secure_headers
from gradstep_server.web.problems import render


def raw_problem(error: GradstepError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a whole HTTP/1.1 answer, after which the connection is to be closed.

    Args:
        error: what it says.
        headers: those that the server puts on every answer.
    """
    name = uuid.uuid4().hex
    nothing = Request({"type": "http", "headers": [], "state": {"request_id": name}})
    more = {**secure_headers.HEADERS, request_id.HEADER: name, "Connection": "close"}
    answer = render(nothing, error, more)
    status = HTTPStatus(answer.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [b"%b: %b" % header for header in (*headers, *answer.raw_headers)]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
