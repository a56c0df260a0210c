"""How long a client may take: uvicorn, left alone, waits for ever.

Every second, one look at all connections of the process finds those that get on
too slowly. There is no timer for each: what a request pays is an addition for
each piece that arrives. A client is only ever blamed for what it owes: not for
the time in which the application, or the process as a whole, keeps it waiting.

- The head of a request has to be whole some seconds after the connection was
  made, or the head began.
- A body has to come with a least rate, taken over a span in which it may pause.
- So does what is answered have to be read.

Who is late with a body gets the application's 408 (`body_limit`), with a head one
from here; who does not read is cut off.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import sys
import termios
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gradstep_server.web.body_limit import LATE
from gradstep_server.web.errors import MalformedRequest, RequestTimeout, TooManyConnections
from gradstep_server.web.raw_problem import raw_problem
from gradstep_server.web.surplus import Crowd, Surplus

_log = logging.getLogger(__name__)

_LINGER = 2.0
"""Seconds that a connection which is closed has to go, when all has been sent."""

_AT_ONCE = 16
"""How many are let go before others have their turn: to tell one takes a millisecond."""

_SOONER = 20
"""How much sooner the next look is then."""

_FOR_PROBES = 16
"""Connections beyond the most there may be, each for one probe: they last as long as its answer."""

_TCP_INFO = struct.Struct("=24xI92xQ16xI")
"""Of Linux's tcp_info: tcpi_unacked, tcpi_bytes_acked, tcpi_notsent_bytes."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How slow a client may be, and how many there may be."""

    head: float = 10.0
    """Seconds for the head of a request."""

    rate: float = 1024.0
    """Bytes a second for a body or an answer; 0 for no limit."""

    span: float = 20.0
    """Seconds over which the rate is taken."""

    connections: int = 4096
    """The most connections of a process."""

    every: float = 1.0
    """Seconds between two looks."""


class Timekeeper:
    """Looks at the connections of one process, as long as there are any."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.surplus = Crowd()
        """Connections that are being told that there are too many."""

        self.let_go = 0
        """Connections that were found too slow since the last look."""

        self._clock = 0.0
        self._looked = 0.0
        self._is_looking = False

    def watch(self, connections: AbstractSet[TimedProtocol]) -> None:
        """Look at these from now on, and at those that join them."""
        if not self._is_looking:
            self._is_looking = True
            loop = asyncio.get_running_loop()
            self._looked = loop.time()
            loop.call_later(self.patience.every, self._look, loop, connections)

    def _look(
        self, loop: asyncio.AbstractEventLoop, connections: AbstractSet[TimedProtocol]
    ) -> None:
        every, now = self.patience.every, loop.time()
        # While the process stood still it received nothing, however quick its clients were.
        self._clock += min(now - self._looked, 2 * every)
        self._looked = now
        before = self.let_go
        try:
            for connection in tuple(connections):
                connection.look(self._clock)
                if self.let_go - before == _AT_ONCE:
                    every /= _SOONER
                    break
            else:
                self._report(len(connections))
        finally:
            self._is_looking = bool(connections)
            if self._is_looking:
                loop.call_later(every, self._look, loop, connections)

    def _report(self, left: int) -> None:
        turned_away = self.surplus.turned_away
        if self.let_go or turned_away:
            _log.warning(
                "%d connections were closed as too slow, %d turned away; there are %d",
                self.let_go,
                turned_away,
                left,
            )
            self.let_go = self.surplus.turned_away = 0


@dataclass(slots=True)
class _Span:
    """The time since something is waited for."""

    what: object = None
    """None where nothing is."""

    since: float = 0.0
    done: int = 0
    """What had been done of it then."""


Owed = tuple[Literal["head", "body", "rest"], RequestResponseCycle | None]
"""What a client has to send, and the last request whose head was whole."""


class TimedProtocol(HttpToolsProtocol):
    """A connection that can be looked at."""

    received = 0
    """Bytes that have come."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        timekeeper: Timekeeper,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timekeeper = timekeeper
        self._sending = _Span()
        self._reading = _Span()
        self._closing = _Span()
        self._resumed = 0
        self._is_let_go = False
        self._is_for_probe = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Take the connection on, if there is room for it."""
        keeper = self._timekeeper
        if len(self.connections) >= keeper.patience.connections:
            Surplus(keeper.surplus, transport, self._refusal, partial(self._probed, transport))
            return
        super().connection_made(transport)
        keeper.watch(self.connections)  # type: ignore[arg-type] # all are of this class

    def _refusal(self) -> bytes:
        most = self._timekeeper.patience.connections
        error = TooManyConnections(f"there are {most} connections already; try again later")
        return raw_problem(error, self.server_state.default_headers)

    def _probed(self, transport: asyncio.Transport, asked: bytes) -> bool:
        """Serve one probe on a surplus connection, unless many are being served already."""
        if len(self.connections) >= self._timekeeper.patience.connections + _FOR_PROBES:
            return False
        self._is_for_probe = True
        transport.set_protocol(self)
        super().connection_made(transport)
        self.data_received(asked)
        return True

    def on_headers_complete(self) -> None:
        """Close after the answer where the connection is there for one request alone."""
        super().on_headers_complete()
        if self._is_for_probe:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Count what comes."""
        self.received += len(data)
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's says nothing
        """Say as a problem that no request can be read in what came, and close."""
        error = MalformedRequest(
            "what came cannot be read as a request of HTTP/1.1, which has an address of at most "
            "65,535 bytes and no control characters in its head; nothing was changed"
        )
        self.transport.write(raw_problem(error, self.server_state.default_headers))
        self.transport.close()

    def resume_writing(self) -> None:
        """Take note that the client has read a good deal."""
        self._resumed += 1
        super().resume_writing()

    def stop_receiving(self) -> None:
        """Wake who waits for the rest of a body that is late."""
        self.cycle.message_event.set()

    def look(self, clock: float) -> None:
        """Let the client go if it is too slow by now.

        Args:
            clock: seconds, of those in which the process was at work.
        """
        if self.transport.is_closing():
            self._look_at_end(clock)
        else:
            self._look_at_request(clock)
        self._look_at_answer(clock)

    def _look_at_request(self, clock: float) -> None:
        patience, span, owed = self._timekeeper.patience, self._sending, self._owed()
        if owed != span.what:
            span.what, span.since, span.done = owed, clock, self.received
        elif owed is not None:
            took = clock - span.since
            if owed[0] == "head":
                if took >= patience.head:
                    self._let_go_of_head()
            elif took >= patience.span:
                if self.received - span.done < patience.rate * took:
                    self._let_go_of_body()
                span.since, span.done = clock, self.received

    def _owed(self) -> Owed | None:
        """Return what the client must send for anything to go on, None if it need not."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            waits = (
                cycle.more_body
                and not self.pipeline
                and not self.flow.read_paused
                and not cycle.waiting_for_100_continue
                and LATE not in cycle.scope["state"]
            )
            return ("body", cycle) if waits else None
        if cycle is None or cycle.scope is not self.scope:
            return "head", cycle
        # Something came after the answer: the rest of a body that nobody reads, or empty lines.
        return ("rest", cycle) if self.timeout_keep_alive_task is None else None

    def _let_go_of_head(self) -> None:
        self._let_go()
        if self.scope is not None:  # otherwise nothing was said that could be answered
            error = RequestTimeout(
                "the head of the request was not whole after "
                f"{self._timekeeper.patience.head:g} seconds; send it again, at once"
            )
            self.transport.write(raw_problem(error, self.server_state.default_headers))
        self.transport.close()

    def _let_go_of_body(self) -> None:
        self._let_go()
        cycle, patience = self.cycle, self._timekeeper.patience
        if cycle.response_complete:
            self.transport.close()
        elif cycle.response_started:
            self.transport.abort()
        else:
            cycle.keep_alive = False
            cycle.scope["state"][LATE] = (
                f"the body came with less than {patience.rate:g} bytes a second for "
                f"{patience.span:g} seconds; nothing was changed, send the request again"
            )
            self.stop_receiving()

    def _look_at_answer(self, clock: float) -> None:
        """Cut off a client that does not read, or as good as does not."""
        patience, span = self._timekeeper.patience, self._reading
        waits, read = self._unread()
        what = self._resumed if waits else None
        if what is None or what != span.what or read < span.done:
            span.what, span.since, span.done = what, clock, read
        elif (took := clock - span.since) >= patience.span:
            if read - span.done < patience.rate * took:
                self._let_go()
                self.transport.abort()
            span.since, span.done = clock, read

    def _unread(self) -> tuple[bool, int]:
        """Return whether there is something to read, and a number that grows as it is read.

        What the buffer here holds says too little. The system takes megabytes, and then
        nothing until a third of them is read; and what TLS has handed on is not seen at all.
        """
        size = self.transport.get_write_buffer_size()
        if not size and (self.scheme != "https" or self.cycle is None):
            return False, 0
        peer = self.transport.get_extra_info("socket")
        try:
            found = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            unacknowledged, acknowledged, unsent = _TCP_INFO.unpack(found)
        except (OSError, AttributeError, struct.error):  # a Unix socket, or another system
            return size > 0, -size - _queued(peer)
        return bool(size or unacknowledged or unsent), acknowledged

    def _look_at_end(self, clock: float) -> None:
        """Do not wait for ever for a client that does not close its end of TLS."""
        span = self._closing
        if span.what is None:
            span.what, span.since = True, clock
        elif clock - span.since >= _LINGER and (self._is_let_go or not self._unread()[0]):
            self.transport.abort()

    def _let_go(self) -> None:
        self._is_let_go = True
        self._timekeeper.let_go += 1


def _queued(peer: socket.socket) -> int:
    """Return how much the system holds for the other end of a socket, if it says so."""
    try:
        return int.from_bytes(fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):
        return 0
