"""A process that is full of connections answers probes, and nothing else, on further ones."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from socket_server import How, Served, answer_of, head, served, status_of
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gradstep_server.web.slow_clients import Patience

PROBES = ("/livez", "/readyz", "/metrics")
FULL = Patience(connections=2)
SOON = 5.0


class App:
    """Names the address that was asked for; keeps `/readyz?wait` waiting."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.go_on = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.served.append(scope["path"])
        if scope["query_string"] == b"wait":
            await asyncio.to_thread(self.go_on.wait, SOON)
        await PlainTextResponse(scope["path"])(scope, receive, send)


@pytest.fixture(
    params=[How("uvloop", "tcp"), How("uvloop", "tls"), How("asyncio"), How("asyncio", "tls")],
    ids=lambda how: f"{how.loop}-{how.kind}",
)
def full(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served[App]]:
    """A server with as many connections as it may have, all of them in use."""
    how = How(request.param.loop, request.param.kind, patience=FULL)
    folder = tmp_path_factory.mktemp("served")
    with served(App(), how, folder) as target:
        with ExitStack() as kept:
            clients = [kept.enter_context(target.connect()) for _ in range(FULL.connections)]
            for client in clients:
                client.sendall(get("/"))
                assert status_of(client) == 200
            target.app.served.clear()
            yield target
            for client in clients:  # which surplus ones have not driven out
                client.sendall(get("/"))
                assert status_of(client) == 200
        target.await_rest()


def get(path: str) -> bytes:
    return head(0, path=path, method="GET")


def refused(client: socket.socket) -> bool:
    """Return whether what comes says that there are too many, and ends."""
    status, headers, body = answer_of(client)
    return (
        status == 503
        and json.loads(body)["code"] == "too-many-connections"
        and headers["retry-after"] == "1"
        and headers["connection"] == "close"
    )


@pytest.mark.parametrize("path", [*PROBES, "/livez?verbose"])
def test_a_probe_is_answered(full: Served[App], path: str) -> None:
    with full.connect() as client:
        client.sendall(get(path))
        status, headers, body = answer_of(client)
        assert (status, body.decode()) == (200, path.partition("?")[0])
        assert headers["connection"] == "close"


def test_a_probe_may_come_in_pieces(full: Served[App]) -> None:
    asked = get("/livez")
    with full.connect() as client:
        for piece in (asked[:3], asked[3:12], asked[12:-3], asked[-3:]):
            client.sendall(piece)
            time.sleep(0.05)
        assert answer_of(client)[0] == 200


@pytest.mark.parametrize(
    "asked",
    [
        get("/version"),
        get("/livez/x"),
        get("//livez"),
        head(0, path="/livez", method="PUT"),
        b"\r\n" + get("/livez"),
        head(0, "X-Long: " + "x" * 9000, path="/livez", method="GET"),
        b"x" * 9000,
    ],
    ids=["other", "below", "slashes", "method", "empty line", "long", "no line"],
)
def test_nothing_else_is(full: Served[App], asked: bytes) -> None:
    with full.connect() as client:
        client.sendall(asked)
        assert refused(client)
    assert full.app.served == []


def test_what_follows_a_probe_is_not_served(full: Served[App]) -> None:
    with full.connect() as client:
        client.sendall(get("/livez") + get("/version"))
        status, _, body = answer_of(client)
        assert (status, body) == (200, b"/livez")
    assert full.app.served == ["/livez"]


def test_a_head_that_is_not_whole_keeps_no_probe_out(full: Served[App]) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(full.connect()).sendall(b"GET /livez HTTP/1.1\r\n")
        client = stack.enter_context(full.connect())
        client.sendall(get("/livez"))
        assert answer_of(client)[0] == 200


def test_many_probes_at_once_are_refused_as_well(full: Served[App]) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(full.connect()) for _ in range(20)]
        for client in waiting:
            client.sendall(get("/readyz?wait"))
        until = time.monotonic() + SOON
        while len(full.app.served) < 16:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert [refused(client) for client in waiting[16:]] == [True] * 4
        full.app.go_on.set()
        assert [answer_of(client)[0] for client in waiting[:16]] == [200] * 16


def test_a_flood_that_says_nothing_does_not_keep_a_probe_out(full: Served[App]) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(full.connect()) for _ in range(300)]
        client = stack.enter_context(full.connect())
        client.sendall(get("/livez"))
        assert answer_of(client)[0] == 200
        assert refused(flood[0])  # the oldest were driven out
