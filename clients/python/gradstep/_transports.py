"""The transports under the clients: connections to one server, kept and used again.

httpx's own serve where a proxy is asked for, and on systems without the socket
calls that these need. A request is sent from where its pieces are; its answer
can be received into the caller's memory (`DIRECT`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from urllib.request import getproxies, proxy_bypass

import httpx

from gradstep import _wires
from gradstep._connection import Connection
from gradstep._http1 import Head
from gradstep._pool import Exchanges, LoopGate, ThreadGate
from gradstep._wires import LoopWaiter, Place, ThreadWaiter, finished

DIRECT = "gradstep.direct"
"""The extension of a response that holds its `AnswerBody` or `AsyncAnswerBody`."""

BLOCK = 256 * 1024

Finish = Callable[[Connection], None]


class AnswerBody(httpx.SyncByteStream):
    """The body of an answer, still on its way."""

    def __init__(self, connection: Connection, finish: Finish) -> None:
        self._connection = connection
        self._finish: Finish | None = finish

    def read_into(self, room: memoryview) -> int:
        """Receive some of it into `room`; return how many bytes, 0 at the end."""
        return finished(self._connection.read_into(room))

    def __iter__(self) -> Iterator[bytes]:
        room = memoryview(bytearray(BLOCK))
        while received := self.read_into(room):
            yield bytes(room[:received])

    def close(self) -> None:
        """Give the connection back."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(self._connection)


class AsyncAnswerBody(httpx.AsyncByteStream):
    """`AnswerBody` for asyncio."""

    def __init__(self, connection: Connection, finish: Finish) -> None:
        self._connection = connection
        self._finish: Finish | None = finish

    async def read_into(self, room: memoryview) -> int:
        """Receive some of it into `room`; return how many bytes, 0 at the end."""
        return await self._connection.read_into(room)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = memoryview(bytearray(BLOCK))
        while received := await self.read_into(room):
            yield bytes(room[:received])

    async def aclose(self) -> None:
        """Give the connection back."""
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(self._connection)


class Transport(httpx.BaseTransport):
    """Carries requests to one server, from any number of threads."""

    def __init__(self, place: Place) -> None:
        self._exchanges = Exchanges(place, ThreadWaiter(), ThreadGate())

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body yet to be read."""
        head, connection = finished(self._exchanges.begin(request))
        return _response(head, AnswerBody(connection, self._exchanges.finish))

    def close(self) -> None:
        """Close all idle connections."""
        self._exchanges.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """`Transport` for asyncio."""

    def __init__(self, place: Place) -> None:
        self._exchanges = Exchanges(place, LoopWaiter(), LoopGate())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body yet to be read."""
        head, connection = await self._exchanges.begin(request)
        return _response(head, AsyncAnswerBody(connection, self._exchanges.finish))

    async def aclose(self) -> None:
        """Close all idle connections."""
        self._exchanges.close()


def place_of(url: httpx.URL, uds: str | None) -> Place | None:
    """Return where a server is to be reached, None if httpx has to reach it.

    Args:
        url: The server's address.
        uds: The path of its Unix socket, if it listens on one.

    Raises:
        ValueError: The system has no Unix sockets.
    """
    if uds is not None and not _wires.AVAILABLE:
        raise ValueError("uds= needs a system with Unix sockets")
    if uds is None and (not _wires.AVAILABLE or _proxied(url)):
        return None
    secure = url.scheme == "https"
    port = url.port or (443 if secure else 80)
    tls = httpx.create_ssl_context() if secure else None
    return Place(url.raw_host.decode("ascii"), port, uds, tls)


def _proxied(url: httpx.URL) -> bool:
    """Say whether the environment may ask for a proxy; if so, httpx knows its rules."""
    proxies = getproxies()
    asked = url.scheme in proxies or "all" in proxies
    return asked and not proxy_bypass(url.netloc.decode("ascii"))


def _response(head: Head, body: AnswerBody | AsyncAnswerBody) -> httpx.Response:
    return httpx.Response(
        head.status,
        headers=head.headers,
        stream=body,
        extensions={
            "http_version": b"HTTP/" + head.version,
            "reason_phrase": head.reason,
            DIRECT: body,
        },
    )
