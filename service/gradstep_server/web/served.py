"""What is known of a request when it has been served, for logs and metrics alike.

Nothing here is a secret or a body, and a query is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.store import Ref

_PATH = 256
"""The most characters of a path that are told."""


@dataclass(slots=True)
class Served:
    """One request, from its head to the end of its answer."""

    method: str
    path: str
    """As it was sent, percent-encoded, without the query."""

    request_id: str
    route: str | None = None
    """The template of its address, such as ``/v1/sessions/{id}``; None where there is none."""

    session: Ref | None = None
    """The tenant and the id of the session that it is about."""

    status: int | None = None
    """None where there was no answer: the client left, or the service had to end."""

    problem: str | None = None
    """The code of the problem that it was answered with."""

    seconds: float = 0.0
    received: int = 0
    """Bytes of its body, those included that are received past the server's own way."""

    sent: int = 0
    """Bytes of the answer's body."""

    phases: Mapping[str, float] = field(default_factory=dict)
    """The seconds that a step spent in each phase."""


class Watcher(Protocol):
    """Is told of requests."""

    def began(self) -> None:
        """A request's head has arrived."""
        ...

    def ended(self, served: Served) -> None:
        """A request was served, or given up."""
        ...


class Watched:
    """ASGI middleware: tells watchers of every request."""

    def __init__(self, app: ASGIApp, watchers: Sequence[Watcher]) -> None:
        self.app = app
        self.watchers = watchers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and look at what goes by."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        served = Served(scope["method"], _path(scope), state.get("request_id", ""))
        began = perf_counter()

        async def count_received() -> Message:
            message = await receive()
            served.received += len(message.get("body", b""))
            return message

        async def count_sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                served.status = message["status"]
                if (laps := state.get("laps")) is not None:
                    laps.end("encode")
            served.sent += len(message.get("body", b""))
            await send(message)

        for watcher in self.watchers:
            watcher.began()
        try:
            await self.app(scope, count_received, count_sent)
        finally:
            served.seconds = perf_counter() - began
            _describe(served, scope, state)
            for watcher in self.watchers:
                watcher.ended(served)


def _describe(served: Served, scope: Scope, state: Mapping[str, Any]) -> None:
    """Add what is known only when the request has been served."""
    served.route = getattr(scope.get("route"), "path_format", None)
    served.session = state.get("session")
    served.problem = state.get("problem")
    served.received += state.get("received_past", 0)
    laps: Laps | None = state.get("laps")
    if laps is not None and served.problem is None:
        laps.end("send")
        served.phases = laps.seconds


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0][:_PATH].decode("ascii", "backslashreplace")
