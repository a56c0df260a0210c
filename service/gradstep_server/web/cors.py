"""Which pages of other origins may call: all that `origins` names, for what has no state."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gradstep_server.web.stateless import is_stateless


class StatelessCors:
    """ASGI middleware: cross-origin access to the stateless routes, and to nothing else."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self.with_cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "If-None-Match", "X-Request-Id"],
            expose_headers=["ETag", "WWW-Authenticate", "X-Request-Id"],
            max_age=86400,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, through CORS where the route has no state."""
        stateless = scope["type"] == "http" and is_stateless(scope["path"])
        await (self.with_cors if stateless else self.app)(scope, receive, send)
