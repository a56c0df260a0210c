"""A request whose body came too slowly is refused where its body is read.

The connection knows that, and the application has to say it: so it is answered,
logged and counted like any other refusal.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.web.errors import RequestTimeout

LATE = "late"
"""The key in a request's state under which the server beneath says what came too slowly."""


class InTime:
    """ASGI middleware: no part of a late body is received."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def receive_in_time() -> Message:
            message = await receive()
            if LATE in state:
                raise RequestTimeout(state[LATE])
            return message

        await self.app(scope, receive_in_time, send)
