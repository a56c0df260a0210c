"""Applications served by uvicorn in a thread, over every kind of socket."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import trustme
import uvicorn
from starlette.types import Receive, Scope, Send

from gradstep_server.web.body_protocol import BodyProtocol
from gradstep_server.web.slow_clients import Patience, Timekeeper

PATIENCE = 20.0
Kind = Literal["tcp", "unix", "tls"]
Loop = Literal["uvloop", "asyncio"]
App = TypeVar("App", bound=Callable[[Scope, Receive, Send], Awaitable[None]])


@dataclass(frozen=True)
class How:
    """How an application is served."""

    loop: Loop = "uvloop"
    kind: Kind = "tcp"
    grace: int = 5
    patience: Patience = field(default_factory=Patience)
    lifespan: Literal["on", "off"] = "off"


class Served(Generic[App]):
    """A server in a thread."""

    def __init__(self, app: App, listening: socket.socket, how: How, folder: Path) -> None:
        self.app = app
        self._listening = listening
        self._trust = _authority(folder)[1] if how.kind == "tls" else None
        self.timekeeper = Timekeeper(how.patience)
        config = uvicorn.Config(
            app,
            http=partial(BodyProtocol, timekeeper=self.timekeeper),  # type: ignore[arg-type] # uvicorn only calls it
            loop=how.loop,
            ws="none",
            lifespan=how.lifespan,
            log_config=None,
            timeout_graceful_shutdown=how.grace,
            ssl_certfile=_authority(folder)[0] if how.kind == "tls" else None,
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([listening],))

    def start(self) -> None:
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while not self.server.started:
            assert time.monotonic() < until
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def connect(self, *, receiving: int | None = None) -> socket.socket:
        """Connect, with so small a buffer for what is received if one is given."""
        client = socket.socket(self._listening.family)
        client.settimeout(PATIENCE)
        if receiving is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receiving)
        client.connect(self._listening.getsockname())
        if self._trust is not None:
            return self._trust.wrap_socket(client, server_hostname="127.0.0.1")
        return client

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        """Send a request on a connection of its own; return the answer and its body."""
        http = HTTPConnection("test")
        http.sock = self.connect()
        try:
            http.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = http.getresponse()
            return answer, answer.read()
        finally:
            http.close()

    def await_rest(self) -> None:
        """Wait until there is no connection, and nothing is at work."""
        state, until = self.server.server_state, time.monotonic() + PATIENCE
        while state.connections or state.tasks or self.timekeeper.surplus.waiting:
            assert time.monotonic() < until, (state.connections, state.tasks)
            time.sleep(0.01)


@contextmanager
def served(app: App, how: How, folder: Path) -> Iterator[Served[App]]:
    """Serve an application as long as the block lasts, with its files in a folder."""
    path = str(folder / "socket") if how.kind == "unix" else None
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as listening:
        listening.bind(("127.0.0.1", 0) if path is None else path)
        listening.listen()
        running = Served(app, listening, how, folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()


@cache
def _authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Return the file of a certificate and its key, and who trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    path = folder / "both.pem"
    path.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return path, trust


def head(length: int | None, *fields: str, path: str = "/", method: str = "PUT") -> bytes:
    """Return a request's head, whose body is chunked if it has no length."""
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"{method} {path} HTTP/1.1", "Host: test", size, *fields, "", ""]
    return "\r\n".join(lines).encode()


def status_of(client: socket.socket) -> int:
    """Read one whole answer, whose length is announced, of a connection that stays open."""
    answer = HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def answer_of(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read until the server closes; return the status, the headers and the body, or zero."""
    received = b""
    try:
        while piece := client.recv(65_536):
            received += piece
    except (ConnectionError, ssl.SSLError):  # it need not be polite to who is too slow
        pass
    if not received:
        return 0, {}, b""
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers: dict[str, Any] = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body
