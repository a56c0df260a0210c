"""No body is larger than the limit, comes too slowly, or takes more memory than there is room for.

The limit holds whichever route a body is for and however it is sent. That a body
is late the connection knows, and the application has to say: so it is answered,
logged and counted like any other refusal. Memory that a request takes beside the
buffers it is lent is counted with `take_room`, until the request has been answered.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.sessions.room import Room, Rooms, patiently
from gradstep_server.web.errors import BodyTooLarge, MalformedRequest, RequestTimeout
from gradstep_server.web.problems import render

LATE = "late"
"""The key in a request's state under which the server beneath says what came too slowly."""

_TAKEN = "room"
_DIGITS = 20
"""Of the largest length that servers read, 2^64 - 1."""


class _Taken:
    """What one request takes beside the buffers that it is lent."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self._taken: list[tuple[Room, int]] = []

    def take(self, nbytes: int, room: Room) -> None:
        room.take(nbytes)
        self._taken.append((room, nbytes))

    def give_back(self) -> None:
        for room, nbytes in self._taken:
            room.give_back(nbytes)


def rooms(request: Request) -> Rooms:
    """Return the rooms in which a request's memory is counted."""
    return _taken(request).rooms


async def take_room(request: Request, nbytes: int, room: Room) -> None:
    """Count memory as taken until the request has been answered.

    Raises:
        Busy: there is not so much room, and will not be soon.
    """
    await patiently(room, _taken(request).take, nbytes, room)


def announced_length(headers: Headers) -> int | None:
    """Return the bytes that a body is said to have, None where nothing is said.

    Raises:
        MalformedRequest: what is said is no number of bytes. Not every server looks.
    """
    announced = headers.get("content-length")
    if announced is None:
        return None
    if not (announced.isascii() and announced.isdigit() and len(announced) <= _DIGITS):
        raise MalformedRequest(
            f"the Content-Length {announced[:32]!r} is not a number of bytes; nothing was changed"
        )
    return int(announced)


def _taken(request: Request) -> _Taken:
    taken: _Taken = request.scope["state"][_TAKEN]
    return taken


class BodyLimit:
    """ASGI middleware: refuses an announced length at once, an unannounced one as it grows.

    No part of a late body is received.
    """

    def __init__(self, app: ASGIApp, limit: int, rooms: Rooms) -> None:
        self.app = app
        self.limit = limit
        self.rooms = rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on if its body may be small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._refuse_announced(Headers(scope=scope))
        except (MalformedRequest, BodyTooLarge) as error:
            await render(Request(scope), error)(scope, receive, send)
            return
        received = 0
        state = scope.setdefault("state", {})
        taken = state[_TAKEN] = _Taken(self.rooms)

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise BodyTooLarge(f"the body has more than {self.limit} bytes")
            if LATE in state:
                raise RequestTimeout(state[LATE])
            return message

        try:
            await self.app(scope, receive_within_limit, send)
        finally:
            taken.give_back()

    def _refuse_announced(self, headers: Headers) -> None:
        announced = announced_length(headers)
        if announced is not None and announced > self.limit:
            raise BodyTooLarge(f"the body has {announced} bytes; the limit is {self.limit}")
