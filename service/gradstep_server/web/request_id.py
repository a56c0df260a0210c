"""Every response carries an ``X-Request-Id``, the client's own where it sent a good one.

So does every line that is logged on a request's behalf.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that the present task works for."""

_RAW = HEADER.lower().encode()
_GOOD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestId:
    """ASGI middleware, the outermost: problems and logs read ``scope["state"]["request_id"]``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on under an id, and put the id on the response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _GOOD.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_RAW, request_id.encode())]
            await send(message)

        token = current.set(request_id)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            current.reset(token)
