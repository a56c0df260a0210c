"""uvicorn's HTTP protocol, and large bodies received past it.

uvicorn hands a body on in chunks, each copied several times before it is where
it belongs. Where the length of a large body is announced, this protocol offers
the route an ASGI extension, `receiving.DIRECT`: asked for the rest of the body,
it lends the connection to a reader that receives straight into the route's
buffer, exactly so many bytes, and then takes it back. Small bodies, chunked
ones, and those that no route asks for never leave uvicorn's way.
"""

from __future__ import annotations

import asyncio
from functools import partial

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gradstep_server.web.body_limit import LATE
from gradstep_server.web.errors import RequestTimeout
from gradstep_server.web.one_write import OneWrite
from gradstep_server.web.receiving import DIRECT
from gradstep_server.web.slow_clients import TimedProtocol

DIRECT_FROM = 256 * 1024
"""Bytes of a body from which on it is worth it."""


_NOWHERE = memoryview(b"")


class BodyProtocol(TimedProtocol):
    """One connection."""

    _body: _Body | None = None
    """That of the request which is being read, if it is large."""

    def on_headers_complete(self) -> None:
        """Offer the extension to the application if the body is large."""
        super().on_headers_complete()
        answer = OneWrite(self.transport)
        self.cycle.on_response = partial(self._answered, self.cycle, answer)
        if not self.cycle.waiting_for_100_continue:  # which is written before the head
            self.cycle.transport = answer  # type: ignore[assignment] # all that it uses
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        self._body = None
        if length.isdigit() and int(length) >= DIRECT_FROM and not self.parser.should_upgrade():
            self._body = _Body(self, self.cycle, int(length))
            # The application is begun, but runs only when this has returned.
            self.scope["extensions"] = {DIRECT: self._body.receive_into}  # type: ignore[dict-item] # ours

    def _answered(self, cycle: RequestResponseCycle, answer: OneWrite) -> None:
        """Let go of what came of a body that nobody has read, such as that of a refused request.

        uvicorn keeps it until the next request; what the extension refers to, longer.
        """
        answer.flush()
        cycle.body = bytearray()
        cycle.scope.pop("extensions", None)
        cycle.on_response = self.on_response_complete
        self.on_response_complete()

    def on_body(self, body: bytes) -> None:
        """Count what comes in uvicorn's way."""
        if self._body is not None:
            self._body.left -= len(body)
        super().on_body(body)

    def stop_receiving(self) -> None:
        """Wake who waits for the rest of a body that is late, however it is received."""
        if self._body is not None:
            self._body.stop()
        super().stop_receiving()

    def lend(self, reader: asyncio.BufferedProtocol) -> None:
        """Let another protocol read what comes next."""
        self._pass_to(reader)
        self.flow.resume_reading()

    def take_back(self) -> None:
        """Read on, with a parser that does not wait for the body that was read past it."""
        self._pass_to(self)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.flow.resume_reading()

    def give_up(self) -> None:
        """Read no more: what is left of a body would be taken for a request."""
        self._pass_to(self)
        self.cycle.keep_alive = False

    def _pass_to(self, protocol: asyncio.BaseProtocol) -> None:
        # uvloop looks at which kind of protocol it reads for when reading begins.
        self.flow.pause_reading()
        self.transport.set_protocol(protocol)


class _Body:
    """The body of one request, on its way."""

    def __init__(self, http: BodyProtocol, cycle: RequestResponseCycle, size: int) -> None:
        self._http = http
        self._cycle = cycle
        self._reader: _Reader | None = None
        self.left = size
        """Bytes that have not come yet."""

    def stop(self) -> None:
        """Let what is being received end where it is."""
        if self._reader is not None:
            self._http.give_up()
            self._reader.end()

    async def receive_into(self, room: memoryview) -> bool:
        """Receive the rest of the body into `room`; return False if the client left before.

        Raises:
            ValueError: the rest is of another size.
            RequestTimeout: the rest came too slowly.
        """
        cycle, http = self._cycle, self._http
        begun = len(cycle.body)
        if len(room) != begun + self.left:
            raise ValueError(f"{begun + self.left} bytes of the body are left, not {len(room)}")
        room[:begun] = cycle.body
        cycle.body = bytearray()
        if self.left and not http.transport.is_closing() and LATE not in cycle.scope["state"]:
            reader = self._reader = _Reader(http, room[begun:])
            http.lend(reader)
            try:
                await reader.ended
            except asyncio.CancelledError:
                http.give_up()
                raise
            finally:
                self._reader = None
                reader.end()
            if cycle.disconnected:
                return False
            if LATE not in cycle.scope["state"]:
                self.left = 0
                cycle.more_body = False
        if LATE in cycle.scope["state"]:
            http.give_up()
            raise RequestTimeout(cycle.scope["state"][LATE])
        return not self.left


class _Reader(asyncio.BufferedProtocol):
    """Receives the rest of a body; tells the connection's own protocol of everything else."""

    def __init__(self, http: BodyProtocol, room: memoryview) -> None:
        self._http = http
        self._room = room
        self.ended: asyncio.Future[None] = http.loop.create_future()
        """Done when the body is whole, or the connection lost."""

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - a hint
        """Return where the next bytes go: never more than the body has."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that came."""
        self._http.received += nbytes
        self._room = self._room[nbytes:]
        if not self._room:
            self._http.take_back()
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._http.connection_lost(exc)
        self.end()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._http.resume_writing()

    def end(self) -> None:
        """Wake who waits, and let go of the buffer: TLS refers to its last reader for long."""
        self._room = _NOWHERE
        if not self.ended.done():
            self.ended.set_result(None)
