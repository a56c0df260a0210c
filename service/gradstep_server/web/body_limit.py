"""No body is larger than the limit, and none takes more memory than there is room for.

The limit holds whichever route a body is for and however it is sent. Memory that
a request takes beside the buffers it is lent is counted with `take_room`, until
the request has been answered.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.sessions.room import Room
from gradstep_server.web.errors import BodyTooLarge
from gradstep_server.web.problems import render

BODIES = 0.5
"""The part of all room that bodies may take, so that there is some for their answers."""

_TAKEN = "room"


class _Taken:
    """What one request takes of the room."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.nbytes = 0

    def take(self, nbytes: int, share: float) -> None:
        self.room.take(nbytes, share)
        self.nbytes += nbytes

    def give_back(self) -> None:
        self.room.give_back(self.nbytes)


def largest(request: Request, factor: int) -> int:
    """Return the size from which on a body that takes so many times its size never has room."""
    taken: _Taken = request.scope["state"][_TAKEN]
    return int(taken.room.limit * BODIES) // factor


def take_room(request: Request, nbytes: int, share: float = 1.0) -> None:
    """Count memory as taken until the request has been answered.

    Raises:
        Busy: there is not so much room at present.
    """
    taken: _Taken = request.scope["state"][_TAKEN]
    taken.take(nbytes, share)


class BodyLimit:
    """ASGI middleware: refuses an announced length at once, an unannounced one as it grows."""

    def __init__(self, app: ASGIApp, limit: int, room: Room) -> None:
        self.app = app
        self.limit = limit
        self.room = room

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
        taken = scope.setdefault("state", {})[_TAKEN] = _Taken(self.room)

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLarge(f"the body has more than {self.limit} bytes")
            return message

        try:
            await self.app(scope, receive_within_limit, send)
        finally:
            taken.give_back()
