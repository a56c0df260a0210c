"""What carries requests to one server, and brings their answers read to the end.

Connections of our own, kept and used again, from and into the memory where the
tensors are. httpx serves where a proxy is asked for, on systems without the
socket calls that ours need, and for a transport of the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import httpx

from gradstep import _http1, _wires
from gradstep._connection import Outgoing
from gradstep._core import Answer, Inbox, Request
from gradstep._loops import PerLoop
from gradstep._pool import Exchanges, Gate, LoopGate, ThreadGate
from gradstep._reused import Reused
from gradstep._wires import LoopWaiter, Place, ThreadWaiter, Waiter, finished


@dataclass(frozen=True, slots=True)
class Server:
    """The server that a client talks to, and how."""

    url: httpx.URL
    """Its address; a path is what stands before ``/v1``."""

    headers: dict[str, str]
    """What every request carries beside its own headers."""

    timeout: httpx.Timeout

    @property
    def prefix(self) -> str:
        """What stands before the path of every request."""
        return self.url.raw_path.decode("ascii").removesuffix("/")


class _Direct:
    """Our own connections, whatever waits for them."""

    def __init__(self, server: Server, place: Place, waiter: Waiter, gate: Gate) -> None:
        self._exchanges = Exchanges(place, waiter, gate, server.timeout.as_dict())
        self._prefix = server.prefix
        self._headers = {"Host": server.url.netloc.decode("ascii"), **server.headers}
        self._reused = Reused()

    async def exchange(self, request: Request) -> Answer:
        """Send a request and return its answer."""
        head, connection = await self._exchanges.begin(self._outgoing(request))
        try:
            length = head.length if head.length >= 0 else None
            inbox = Inbox(head.status, head.headers, length, self._reused)
            while (room := inbox.room) and (received := await connection.read_into(room)):
                inbox.filled(received)
        finally:
            self._exchanges.finish(connection)
        return _decoded(inbox.answer())

    def _outgoing(self, request: Request) -> Outgoing:
        headers = self._headers | request.all_headers()
        head = _http1.request_head(request.method, self._prefix + request.target, headers)
        return Outgoing(request.method, head, request.body.pieces if request.body else ())

    def close(self) -> None:
        """Close all idle connections; those in use follow at their end."""
        self._exchanges.close()


class DirectTransport:
    """Carries requests by our own connections, from any number of threads."""

    def __init__(self, server: Server, place: Place) -> None:
        self._direct = _Direct(server, place, ThreadWaiter(), ThreadGate())

    def exchange(self, request: Request) -> Answer:
        """Send a request and return its answer.

        Raises:
            httpx.RequestError: None came.
            AnswerMalformed: It is not as long as it announced.
        """
        return finished(self._direct.exchange(request))

    def close(self) -> None:
        """Close all connections."""
        self._direct.close()


class AsyncDirectTransport:
    """`DirectTransport` for asyncio."""

    def __init__(self, server: Server, place: Place) -> None:
        self._direct = _Direct(server, place, LoopWaiter(), LoopGate())

    async def exchange(self, request: Request) -> Answer:
        """Send a request and return its answer."""
        return await self._direct.exchange(request)

    async def close(self) -> None:
        """Close all connections."""
        self._direct.close()


class HttpxTransport:
    """Carries requests by httpx."""

    def __init__(self, server: Server, transport: httpx.BaseTransport | None) -> None:
        self._server = server
        self._reused = Reused()
        self._http = httpx.Client(timeout=server.timeout, transport=transport)

    def exchange(self, request: Request) -> Answer:
        """Send a request and return its answer; raise what `DirectTransport` raises."""
        body = request.body
        content = (body.if_small() or body.blocks()) if body else None
        response = self._http.send(_outgoing(self._server, request, content), stream=True)
        try:
            inbox = _inbox(response, self._reused)
            for chunk in response.iter_bytes():
                inbox.write(chunk)
        finally:
            response.close()
        return inbox.answer()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class AsyncHttpxTransport:
    """`HttpxTransport` for asyncio."""

    def __init__(self, server: Server, transport: httpx.AsyncBaseTransport | None) -> None:
        self._server = server
        self._reused = Reused()
        self._http = PerLoop(lambda: httpx.AsyncClient(timeout=server.timeout, transport=transport))

    async def exchange(self, request: Request) -> Answer:
        """Send a request and return its answer; raise what `DirectTransport` raises."""
        body = request.body
        content = (body.if_small() or body.blocks_async()) if body else None
        response = await self._http.get().send(
            _outgoing(self._server, request, content), stream=True
        )
        try:
            inbox = _inbox(response, self._reused)
            async for chunk in response.aiter_bytes():
                inbox.write(chunk)
        finally:
            await response.aclose()
        return inbox.answer()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.get().aclose()


def _outgoing(
    server: Server, request: Request, content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None
) -> httpx.Request:
    target = (server.prefix + request.target).encode("ascii")
    return httpx.Request(
        request.method,
        server.url.copy_with(raw_path=target),
        headers=request.all_headers() | server.headers,
        content=content,
    )


def _inbox(response: httpx.Response, reused: Reused) -> Inbox:
    headers = dict(response.headers)
    length = headers.get("content-length", "")
    known = length.isdecimal() and "content-encoding" not in headers  # which httpx undoes
    return Inbox(response.status_code, headers, int(length) if known else None, reused)


def _decoded(answer: Answer) -> Answer:
    """Undo the coding of an answer; none was asked for, but a proxy may not have listened."""
    if "content-encoding" not in answer.headers:
        return answer
    decoded = httpx.Response(answer.status, headers=answer.headers, content=bytes(answer.body))
    return Answer(answer.status, answer.headers, memoryview(decoded.content))


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
