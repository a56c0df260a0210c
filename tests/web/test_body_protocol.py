"""Large bodies are received past uvicorn, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import socket_server
from socket_server import PATIENCE, How, Loop, Served, head
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gradstep_server.sessions.buffers import Buffers
from gradstep_server.sessions.room import Rooms
from gradstep_server.web.body_limit import BodyLimit
from gradstep_server.web.body_protocol import DIRECT_FROM
from gradstep_server.web.receiving import DIRECT, receive

LARGE = 3_000_001
LIMIT = 8 * 2**20
BODY = np.random.default_rng(0).bytes(LARGE)
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


class App:
    """Receives bodies as the routes do, and says what came; tells how requests ended."""

    def __init__(self) -> None:
        self.buffers = Buffers(LIMIT)
        self.ends: list[str] = []
        self.begun = threading.Event()
        self._limited = BodyLimit(self._serve, LIMIT, Rooms.halves(2**40))

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        await self._limited(scope, receive_, send)

    async def _serve(self, scope: Scope, receive_: Receive, send: Send) -> None:
        request = Request(scope, receive_)
        self.begun.set()
        try:
            answer = await self._answer(request)
        except ClientDisconnect:
            self.ends.append("disconnected")
            return
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        self.ends.append("answered")
        await JSONResponse(answer)(scope, receive_, send)

    async def _answer(self, request: Request) -> dict[str, Any]:
        if request.url.path == "/unread":
            return {}
        direct = request.scope.get("extensions", {}).get(DIRECT)
        if request.url.path == "/wrong":
            await request.receive()
            try:
                await direct(memoryview(bytearray(LARGE + 1)))
            except ValueError as error:
                return {"error": str(error)}
        body = await receive(request, self.buffers)
        digest = hashlib.sha256(body).hexdigest()
        return {"size": len(body), "digest": digest, "direct": direct is not None}


@contextmanager
def served(loop: Loop, path: Path | None = None, grace: int = 5) -> Iterator[Served[App]]:
    """Serve an `App`, on a Unix socket in a folder if one is given."""
    how = How(loop=loop, kind="tcp" if path is None else "unix", grace=grace)
    with socket_server.served(App(), how, path or Path()) as running:
        yield running


def answers(client: socket.socket, count: int) -> list[dict[str, Any]]:
    """Read so many answers."""
    found = []
    with client.makefile("rb") as lines:
        for _ in range(count):
            assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := lines.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name == b"content-length" else length
            found.append(json.loads(lines.read(length)))
    return found


def told(body: bytes, *, direct: bool = True) -> dict[str, Any]:
    return {"size": len(body), "digest": hashlib.sha256(body).hexdigest(), "direct": direct}


@LOOPS
def test_a_large_body_arrives_whole_however_it_is_cut(loop: Loop) -> None:
    with served(loop) as running:
        for cut in (1, 100, 70_001, 1_000_003):
            with running.connect() as client:
                message = head(LARGE) + BODY
                client.sendall(message[:cut])
                time.sleep(0.05)
                client.sendall(message[cut : 2 * cut])
                time.sleep(0.05)
                client.sendall(message[2 * cut :])
                assert answers(client, 1) == [told(BODY)]


@LOOPS
def test_it_arrives_over_a_unix_socket(loop: Loop, tmp_path: Path) -> None:
    with served(loop, tmp_path) as running, running.connect() as client:
        client.sendall(head(LARGE) + BODY)
        assert answers(client, 1) == [told(BODY)]


@LOOPS
def test_a_connection_carries_one_body_after_another(loop: Loop) -> None:
    with served(loop) as running, running.connect() as client:
        for size in (LARGE, 10, LARGE - 1, DIRECT_FROM, DIRECT_FROM - 1, 0, LARGE):
            client.sendall(head(size) + BODY[:size])
            assert answers(client, 1) == [told(BODY[:size], direct=size >= DIRECT_FROM)]
    assert running.app.buffers.kept > 0


@LOOPS
def test_requests_sent_at_once_are_answered_in_order(loop: Loop) -> None:
    sizes = [LARGE, 5, LARGE - 7, DIRECT_FROM + 1, 0]
    with served(loop) as running, running.connect() as client:
        message = b"".join(head(size) + BODY[:size] for size in sizes)
        sender = threading.Thread(target=client.sendall, args=(message,))
        sender.start()
        found = answers(client, len(sizes))
        sender.join()
    assert found == [told(BODY[:size], direct=size >= DIRECT_FROM) for size in sizes]


@LOOPS
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_within_its_body_is_noticed(loop: Loop, how: str) -> None:
    with served(loop) as running:
        with running.connect() as client:
            client.sendall(head(LARGE) + BODY[: LARGE // 2])
            assert running.app.begun.wait(PATIENCE)
            time.sleep(0.1)
            if how == "reset":
                linger = b"\1\0\0\0\0\0\0\0"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if how == "half":
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        until = time.monotonic() + PATIENCE
        while not running.app.ends:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert running.app.ends == ["disconnected"]
        running.await_rest()
        assert running.app.buffers.kept >= LARGE  # what was lent to the body came back
        with running.connect() as client:
            client.sendall(head(LARGE) + BODY)
            assert answers(client, 1) == [told(BODY)]


@LOOPS
def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(loop: Loop) -> None:
    with served(loop) as running, running.connect() as client:
        client.sendall(head(LARGE, "Expect: 100-continue"))
        asked = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.recv(len(asked), socket.MSG_WAITALL) == asked
        client.sendall(BODY)
        assert answers(client, 1) == [told(BODY)]


@LOOPS
def test_a_chunked_body_is_left_to_uvicorn(loop: Loop) -> None:
    with served(loop) as running:
        address = running._listening.getsockname()
        connection = HTTPConnection(*address)
        connection.request("PUT", "/", iter([BODY[:5], BODY[5:]]), encode_chunked=True)
        assert json.loads(connection.getresponse().read()) == told(BODY, direct=False)
        connection.close()


@LOOPS
def test_a_body_over_the_limit_is_refused_before_it_is_sent(loop: Loop) -> None:
    with served(loop) as running, running.connect() as client:
        client.sendall(head(LIMIT + 1, "Expect: 100-continue"))
        assert client.recv(64).startswith(b"HTTP/1.1 413 ")
        assert running.app.ends == []


@LOOPS
def test_a_body_that_no_route_reads_is_passed_over(loop: Loop) -> None:
    with served(loop) as running, running.connect() as client:
        client.sendall(head(LARGE, path="/unread") + BODY)
        assert answers(client, 1) == [{}]
        client.sendall(head(LARGE) + BODY)
        assert answers(client, 1) == [told(BODY)]


def test_another_size_than_the_rest_is_refused() -> None:
    with served("uvloop") as running, running.connect() as client:
        client.sendall(head(LARGE, path="/wrong") + BODY)
        [found] = answers(client, 1)
        assert found["error"].endswith(f"bytes of the body are left, not {LARGE + 1}")


@LOOPS
def test_a_server_that_is_told_to_stop_receives_the_body_to_its_end(loop: Loop) -> None:
    with served(loop) as running, running.connect() as client:
        client.sendall(head(LARGE) + BODY[: LARGE // 2])
        assert running.app.begun.wait(PATIENCE)
        time.sleep(0.1)
        running.server.should_exit = True
        time.sleep(0.3)
        client.sendall(BODY[LARGE // 2 :])
        assert answers(client, 1) == [told(BODY)]
        assert client.recv(1) == b""


@LOOPS
def test_a_body_that_does_not_end_holds_no_server_up(loop: Loop) -> None:
    with served(loop, grace=1) as running, running.connect() as client:
        client.sendall(head(LARGE) + BODY[: LARGE // 2])
        assert running.app.begun.wait(PATIENCE)
        time.sleep(0.1)
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 5
        assert running.app.ends == ["cancelled"]


@LOOPS
def test_what_nobody_reads_is_not_kept(loop: Loop) -> None:
    gc.collect()
    gc.disable()
    try:
        with served(loop) as running, running.connect() as client:
            for _ in range(3):
                client.sendall(b"PUT /unread HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
                client.sendall(b"\x5a" * 1_000_000)
                assert answers(client, 1) == [{}]
            kept = [o for o in gc.get_objects() if type(o) is RequestResponseCycle]
            assert [len(cycle.body) for cycle in kept if len(cycle.body) > 100] == []
            assert len(kept) <= 1
    finally:
        gc.enable()
