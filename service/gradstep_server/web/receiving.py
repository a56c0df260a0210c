"""Receiving a body that is not JSON: into one buffer, from the socket where that is possible."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.requests import ClientDisconnect

from gradstep_server.sessions.buffers import Buffers
from gradstep_server.sessions.room import patiently
from gradstep_server.web.body_limit import announced_length, rooms
from gradstep_server.web.errors import MalformedBody

DIRECT = "gradstep.receive_into"
"""The ASGI extension with which a server reads the rest of a body where the caller wants it."""

ReceiveInto = Callable[[memoryview], Awaitable[bool]]
"""Fills a buffer of exactly the bytes that are left; returns whether all of them came."""


_FIRST = 64 * 1024


async def receive(request: Request, buffers: Buffers) -> memoryview:
    """Read a whole body into one buffer of the announced length, or a growing one.

    Raises:
        MalformedBody: the body is shorter or longer than announced.
        Busy: there is no room for it at present.
    """
    announced = announced_length(request.headers)
    if announced is None:
        return await _receive_growing(request, buffers)
    # Memory is taken as it is written, so that announcing much costs the server no more than room.
    room = rooms(request).bodies
    buffer = await patiently(room, buffers.take, announced, room)
    receive_into: ReceiveInto | None = request.scope.get("extensions", {}).get(DIRECT)
    end = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        start, end = end, end + len(chunk)
        if end > announced:
            raise MalformedBody(f"the body has more than the {announced} bytes that were announced")
        buffer[start:end] = chunk
        if not message.get("more_body", False):
            break
        if receive_into is not None:
            if not await receive_into(buffer[end:]):
                raise ClientDisconnect
            request.state.received_past = len(buffer) - end
            return buffer
    if end != announced:
        raise MalformedBody(f"the body ended after {end} of {announced} bytes")
    return buffer


async def _receive_growing(request: Request, buffers: Buffers) -> memoryview:
    """Read a body of unknown length."""
    room = rooms(request).bodies
    buffer, end = buffers.take(_FIRST, room), 0
    async for chunk in request.stream():
        start, end = end, end + len(chunk)
        if end > len(buffer):
            larger = await patiently(room, buffers.take, 2 * end, room)
            larger[:start] = buffer[:start]
            buffer = larger
        buffer[start:end] = chunk
    return buffer[:end]
