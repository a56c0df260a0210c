"""HEAD: what GET would answer, without the body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Told(Exception):
    """Raised into what sends a body in pieces: nobody waits for the others."""


class HeadAnswers:
    """ASGI middleware: asks every route for GET where HEAD came, and keeps the body back.

    So no route declares HEAD, and none can forget it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the call on; any other method costs no more than the look at it."""
        if scope.get("method") == "HEAD":
            return self._head(scope, receive, send)
        return self.app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b""})
            if message.get("more_body", False):
                raise _Told

        # The server and the log still have to see a HEAD.
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send_head)
        except _Told:
            pass
        finally:
            scope["route"] = asked.get("route")  # for the log
