"""No body is larger than the limit, whichever route it is for and however it is sent."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.web.errors import BodyTooLarge
from gradstep_server.web.problems import render


class BodyLimit:
    """ASGI middleware: refuses an announced length at once, an unannounced one as it grows."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on if its body may be small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            error = BodyTooLarge(f"the body has {announced} bytes; the limit is {self.limit}")
            await render(Request(scope), error)(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLarge(f"the body has more than {self.limit} bytes")
            return message

        await self.app(scope, receive_within_limit, send)
