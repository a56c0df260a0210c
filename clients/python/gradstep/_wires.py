"""Sockets that never block by themselves: what waits for them is the one thing to choose.

A `Waiter` waits in a thread or in an event loop. All else is written once, as
coroutines; those of a `ThreadWaiter` never suspend, so that `finished` runs them
to their end at once. Failures are httpx's exceptions. Addresses, TLS, sending
and receiving are here; HTTP is not.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import select
import socket
import ssl
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import httpx

T = TypeVar("T")

READ, WRITE = 1, 4
"""What a socket is waited for, as in POLLIN and POLLOUT."""

AVAILABLE = hasattr(select, "poll") and hasattr(socket.socket, "sendmsg")
"""Whether this system has what this module needs."""

Timeouts = Mapping[str, float | None]
"""Seconds by phase, as httpx gives them; None for ever."""

AddressInfo = tuple[int, int, int, str, Any]


class Waiter(Protocol):
    """How to wait."""

    async def ready(self, fd: int, events: int, seconds: float | None) -> int:
        """Return those of the events that happened, 0 if none did in time."""
        ...

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Return the addresses of a host."""
        ...


class ThreadWaiter:
    """Waits by blocking the thread."""

    async def ready(self, fd: int, events: int, seconds: float | None) -> int:
        """Return those of the events that happened, 0 if none did in time."""
        poll = select.poll()
        poll.register(fd, events)
        happened = poll.poll(None if seconds is None else math.ceil(seconds * 1000))
        # An error or a hang-up is told by the next send or receive, whichever comes.
        return (happened[0][1] & events or events) if happened else 0

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Return the addresses of a host."""
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class LoopWaiter:
    """Waits by letting the event loop go on."""

    async def ready(self, fd: int, events: int, seconds: float | None) -> int:
        """Return those of the events that happened, 0 if none did in time."""
        loop = asyncio.get_running_loop()
        happened: asyncio.Future[int] = loop.create_future()

        def tell(event: int) -> None:
            if not happened.done():
                happened.set_result(event)

        timer = None if seconds is None else loop.call_later(seconds, tell, 0)
        try:
            if events & READ:
                loop.add_reader(fd, tell, READ)
            if events & WRITE:
                loop.add_writer(fd, tell, WRITE)
            return await happened
        finally:
            if timer is not None:
                timer.cancel()
            loop.remove_reader(fd)
            loop.remove_writer(fd)

    async def resolve(self, host: str, port: int) -> Sequence[AddressInfo]:
        """Return the addresses of a host."""
        loop = asyncio.get_running_loop()
        return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    raise RuntimeError("a coroutine that waits in its thread has suspended")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens: a host and a port, or a Unix socket; and how it is trusted."""

    host: str
    port: int
    uds: str | None = None
    tls: ssl.SSLContext | None = None


class Wire:
    """A connected socket."""

    def __init__(self, sock: socket.socket, waiter: Waiter, timeouts: Timeouts) -> None:
        self._socket = sock
        self._waiter = waiter
        self._timeouts = timeouts

    @classmethod
    async def connect(cls, place: Place, waiter: Waiter, timeouts: Timeouts) -> Wire:
        """Return a wire to a place.

        Raises:
            httpx.ConnectError: No address of it answers, or not as it should.
            httpx.ConnectTimeout: None answers in time.
        """
        seconds = timeouts.get("connect")
        try:
            sock = await _connected(place, waiter, seconds)
            wire = cls(sock, waiter, timeouts)
            if place.tls is not None:
                await wire._secure(place.tls, place.host, seconds)
        except OSError as error:  # ssl.SSLError and socket.gaierror are OSErrors
            raise httpx.ConnectError(str(error)) from error
        return wire

    async def send(self, pieces: Sequence[memoryview]) -> int:
        """Send some of the bytes.

        Returns:
            How many; 0 if the server has something to say before it takes more.

        Raises:
            httpx.WriteError: The connection is broken.
            httpx.WriteTimeout: It takes no byte in time.
        """
        while True:
            try:
                return self._send_now(pieces)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError as error:
                raise httpx.WriteError(str(error)) from error
            happened = await self._ready(READ | WRITE, self._timeouts.get("write"))
            if not happened:
                raise httpx.WriteTimeout("the server takes no more of the request")
            if happened & READ:
                return 0

    async def receive(self, room: memoryview) -> int:
        """Receive some bytes into `room`.

        Returns:
            How many; 0 at the end.

        Raises:
            httpx.ReadError: The connection is broken.
            httpx.ReadTimeout: No byte comes in time.
        """
        while True:
            received = self.receive_now(room)
            if received is not None:
                return received
            if not await self._ready(READ, self._timeouts.get("read")):
                raise httpx.ReadTimeout("the server sends no more of the answer")

    def receive_now(self, room: memoryview) -> int | None:
        """Receive what is there: as `receive`, but None if there is nothing yet."""
        try:
            return self._socket.recv_into(room)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError as error:
            raise httpx.ReadError(str(error)) from error

    def quiet(self) -> bool:
        """Say whether the server has neither closed the connection nor said anything on it."""
        try:
            # Bytes that nobody asked for are as good as a close: neither leaves the wire usable.
            return self.receive_now(memoryview(bytearray(1))) is None
        except httpx.ReadError:
            return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send_now(self, pieces: Sequence[memoryview]) -> int:
        if isinstance(self._socket, ssl.SSLSocket):
            return self._socket.send(pieces[0])
        return self._socket.sendmsg(pieces)

    async def _secure(self, context: ssl.SSLContext, host: str, seconds: float | None) -> None:
        sock = context.wrap_socket(
            self._socket,
            server_hostname=host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
        )
        self._socket = sock
        try:
            await self._shake_hands(sock, seconds)
        except BaseException:
            sock.close()
            raise

    async def _shake_hands(self, sock: ssl.SSLSocket, seconds: float | None) -> None:
        while True:
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                wanted = READ
            except ssl.SSLWantWriteError:
                wanted = WRITE
            if not await self._ready(wanted, seconds):
                raise httpx.ConnectTimeout("the server does not finish the TLS handshake")

    async def _ready(self, events: int, seconds: float | None) -> int:
        return await self._waiter.ready(self._socket.fileno(), events, seconds)


async def _connected(place: Place, waiter: Waiter, seconds: float | None) -> socket.socket:
    """Return a socket connected to the first address of a place that answers."""
    failure: OSError | httpx.ConnectTimeout = OSError("the host has no address")
    for family, address in await _addresses(place, waiter):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            await _connect(sock, address, waiter, seconds)
        except (OSError, httpx.ConnectTimeout) as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


async def _addresses(place: Place, waiter: Waiter) -> Iterable[tuple[int, Any]]:
    if place.uds is not None:
        return [(socket.AF_UNIX, place.uds)]
    return [(found[0], found[4]) for found in await waiter.resolve(place.host, place.port)]


async def _connect(
    sock: socket.socket, address: object, waiter: Waiter, seconds: float | None
) -> None:
    sock.settimeout(0)
    if sock.family != socket.AF_UNIX:
        # Else the kernel waits for an acknowledgement, up to 40 ms, before it sends a short rest.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    code = sock.connect_ex(cast("Any", address))
    if code == errno.EINPROGRESS:
        if not await waiter.ready(sock.fileno(), WRITE, seconds):
            raise httpx.ConnectTimeout("the server does not answer")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
