"""Answers that nobody reads, who is to blame for a pause, and too many connections."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from socket_server import How, Kind, Loop, Served, answer_of, head, served, status_of
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gradstep_server.sessions.room import Rooms
from gradstep_server.web.body_limit import BodyLimit
from gradstep_server.web.slow_clients import Patience

PATIENCE = Patience(head=0.5, rate=20_000, span=0.5, every=0.05, connections=4)
SOON = 5.0
LARGE = 48 * 2**20
"""More than the system keeps for a client that does not read."""

_PAUSE = 1.5
"""Seconds, several times those in which a client would be late."""


class App:
    """Answers at length, or keeps its client waiting; says when it has."""

    def __init__(self) -> None:
        self.blocks = threading.Event()
        self._limited = BodyLimit(self._serve, LARGE, Rooms.halves(LARGE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._limited(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        match request.url.path:
            case "/large":
                answer = Response(bytes(LARGE))
            case "/streamed":
                answer = StreamingResponse(self._pieces())
            case "/later":
                await asyncio.sleep(_PAUSE)
                answer = Response(str(len(await request.body())))
            case "/blocked":
                self.blocks.set()
                time.sleep(_PAUSE)  # noqa: ASYNC251 - the whole process is to stand still
                answer = Response()
            case _:
                answer = Response(str(len(await request.body())))
        await answer(scope, receive, send)

    async def _pieces(self) -> AsyncIterator[bytes]:
        for _ in range(LARGE // 2**18):
            yield bytes(2**18)


@pytest.fixture(
    params=[
        ("uvloop", "tcp"),
        ("uvloop", "unix"),
        ("uvloop", "tls"),
        ("asyncio", "tcp"),
        ("asyncio", "tls"),
    ],
    ids="-".join,
)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served[App]]:
    loop: Loop
    kind: Kind
    loop, kind = request.param
    with served(App(), How(loop, kind, patience=PATIENCE), tmp_path) as running:
        yield running


@pytest.mark.parametrize("path", ["/large", "/streamed"])
@pytest.mark.parametrize("more", [[], ["Connection: close"]], ids=["kept", "closed"])
def test_a_client_that_does_not_read_is_cut_off(
    target: Served[App], path: str, more: list[str]
) -> None:
    with target.connect(receiving=16_384) as client:
        began = time.monotonic()
        client.sendall(head(0, *more, path=path, method="GET"))
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        target.await_rest()
        assert PATIENCE.span <= time.monotonic() - began < SOON
        received = 0
        with suppress(ConnectionError, ssl.SSLError):
            while piece := client.recv(2**20):
                received += len(piece)
        assert received < LARGE


@pytest.mark.parametrize("path", ["/large", "/streamed"])
def test_a_client_that_reads_slowly_gets_it_all(target: Served[App], path: str) -> None:
    with target.connect(receiving=16_384) as client:
        client.sendall(head(0, path=path, method="GET"))
        received, until = 0, time.monotonic() + 4 * PATIENCE.span
        while received < LARGE:
            piece = client.recv(65_536)
            assert piece, f"cut off after {received} bytes"
            received += len(piece)
            if time.monotonic() < until:
                time.sleep(0.02)


def test_a_client_that_is_kept_waiting_is_not_late(target: Served[App]) -> None:
    """Neither one that has sent all it could, nor one that waits to be asked for its body."""
    for size, first in ((10, b""), (400_000, b"x" * 400_000)):
        expects = [] if first else ["Expect: 100-continue"]
        with target.connect() as client:
            client.sendall(head(size, *expects, path="/later") + first)
            if not first:
                assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
                client.sendall(b"x" * size)
            assert status_of(client) == 200


def test_who_sends_while_the_process_stands_still_is_not_late(target: Served[App]) -> None:
    with target.connect() as client, target.connect() as blocking:
        client.sendall(head(30_000) + b"x" * 10_000)
        time.sleep(0.1)
        blocking.sendall(head(0, path="/blocked", method="GET"))
        assert target.app.blocks.wait(SOON)
        client.sendall(b"x" * 1000)
        assert status_of(blocking) == 200
        time.sleep(0.15)
        client.sendall(b"x" * 19_000)
        assert status_of(client) == 200


def test_one_connection_too_many_is_told_so(target: Served[App]) -> None:
    asked = head(0, method="GET")
    with target.connect() as first:
        first.sendall(asked)
        assert status_of(first) == 200
        others = [target.connect() for _ in range(PATIENCE.connections - 1)]
        try:
            for other in others:
                other.sendall(asked)
                assert status_of(other) == 200
            with target.connect() as surplus:
                surplus.sendall(head(100_000) + bytes(100_000))
                status, headers, body = answer_of(surplus)
            problem = json.loads(body)
            assert (status, problem["code"]) == (503, "too-many-connections")
            assert headers["retry-after"] == "1"
            assert headers["connection"] == "close"
            assert headers["content-type"] == "application/problem+json"
            first.sendall(asked)
            assert status_of(first) == 200
        finally:
            for other in others:
                other.close()
    target.await_rest()
    assert target.ask("GET", "/")[0].status == 200


def test_a_connection_too_many_that_says_nothing_is_closed(target: Served[App]) -> None:
    kept = [target.connect() for _ in range(PATIENCE.connections)]
    began = time.monotonic()
    with target.connect() as surplus:
        # Those that are kept say nothing either, and make room before.
        assert answer_of(surplus) == (0, {}, b"")
        assert time.monotonic() - began < SOON
    for client in kept:
        client.close()
    target.await_rest()


def test_a_flood_of_them_is_not_waited_for(tmp_path: Path) -> None:
    how = How(patience=Patience(connections=1))
    with served(App(), how, tmp_path) as target, target.connect() as kept:
        kept.sendall(head(0, method="GET"))
        assert status_of(kept) == 200
        flood = [socket.create_connection(kept.getpeername()) for _ in range(300)]
        answers = [answer_of(client)[0] for client in flood[:20]]
        assert answers == [503] * 20
        for client in flood:
            client.close()
        kept.close()
        target.await_rest()
