"""Clients that are too slow, or leave, over every kind of socket: told so, and forgotten."""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from fastapi import FastAPI
from session_app import SGD, f32, file
from socket_server import How, Served, answer_of, head, served, status_of

from gradstep_server.app import create_app
from gradstep_server.settings import Settings
from gradstep_server.web.body_protocol import DIRECT_FROM
from gradstep_server.web.slow_clients import Patience

RATE = 2000.0
PATIENCE = Patience(head=0.5, rate=RATE, span=0.5, every=0.05)
SOON = 3.0
"""Seconds in which even a busy machine has noticed."""

TENSORS = "Content-Type: application/vnd.safetensors"
SMALL = file({"w": f32(1, 2)})
LARGE = file({"w": f32(*range(DIRECT_FROM // 4))})
JSON_BODY = b'{"grads": {"w": [1, 2]}}'
Target = Served[FastAPI]


def step(session: str, length: int | None, media: str = TENSORS) -> bytes:
    return head(length, media, path=f"/v1/sessions/{session}/steps/1")


BODIES: dict[str, tuple[str, bytes, bytes]] = {
    "json": ("small", step("small", len(JSON_BODY), "Content-Type: application/json"), JSON_BODY),
    "length": ("small", step("small", len(SMALL)), SMALL),
    "chunked": ("small", step("small", None), b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMALL), SMALL)),
    "direct": ("large", step("large", len(LARGE)), LARGE),
}
"""For each way of receiving a body: the session, the head of a step, and its body."""

WAYS = pytest.mark.parametrize("way", BODIES)


@pytest.fixture(
    scope="module",
    params=[
        How("uvloop", "tcp"),
        How("uvloop", "unix"),
        How("uvloop", "tls"),
        How("asyncio"),
        How("asyncio", "tls"),
    ],
    ids=lambda how: f"{how.loop}-{how.kind}",
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The service with two sessions, and little patience."""
    how = How(request.param.loop, request.param.kind, patience=PATIENCE, lifespan="on")
    app = create_app(Settings(store="memory://", access_log=False))
    with served(app, how, tmp_path_factory.mktemp("served")) as running:
        for session, values in (("small", [1.0, 2.0]), ("large", [0.0] * (DIRECT_FROM // 4))):
            wanted = json.dumps({"optimizer": SGD, "params": {"w": values}}).encode()
            created, said = running.ask(
                "PUT", f"/v1/sessions/{session}", wanted, Content_Type="application/json"
            )
            assert created.status == 201, said
        yield running


def assert_untouched(target: Target, way: str = "json") -> None:
    """Raise unless no step was taken, and nothing is left of any request."""
    target.await_rest()
    until = time.monotonic() + SOON
    while way == "direct" and target.app.state.services.buffers.kept < len(LARGE):
        assert time.monotonic() < until, "the body's buffer did not come back"
        time.sleep(0.01)
    for session in ("small", "large"):
        _, shown = target.ask("GET", f"/v1/sessions/{session}")
        assert (json.loads(shown)["step"], json.loads(shown)["seq"]) == (0, 1)
    _, page = target.ask("GET", "/metrics")
    assert b"\ngradstep_requests_in_flight 1.0\n" in page  # this one


def assert_too_slow(client: socket.socket) -> None:
    """Raise unless what comes is a whole 408, and then the end."""
    status, headers, body = answer_of(client)
    assert (status, headers["content-type"]) == (408, "application/problem+json")
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (408, "request-timeout")
    assert problem["request_id"] == headers["x-request-id"] != ""


def dribble(client: socket.socket, data: bytes) -> None:
    """Send a byte now and then until there is an answer; TLS does not tell, so send a few."""
    secure = isinstance(client, ssl.SSLSocket)
    for byte in data[: 3 if secure else len(data)]:
        client.sendall(bytes([byte]))
        if secure:
            time.sleep(0.1)
        elif select.select([client], [], [], 0.1)[0]:
            return


def test_a_head_that_stops_is_answered_in_time(target: Target) -> None:
    with target.connect() as client:
        began = time.monotonic()
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: te")
        assert_too_slow(client)
        assert PATIENCE.head <= time.monotonic() - began < SOON
    target.await_rest()


def test_a_head_that_comes_byte_by_byte_is_answered_in_time(target: Target) -> None:
    with target.connect() as client:
        began = time.monotonic()
        dribble(client, b"GET /livez HTTP/1.1\r\nX-Slow: " + b"y" * 1000)
        assert_too_slow(client)
        assert time.monotonic() - began < SOON


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(target: Target) -> None:
    with target.connect() as client:
        began = time.monotonic()
        assert answer_of(client) == (0, {}, b"")
        assert PATIENCE.head <= time.monotonic() - began < SOON


@pytest.mark.parametrize("begun", [b"GET /l", b"\r\n"])
def test_what_comes_after_an_answer_has_its_time_too(target: Target, begun: bytes) -> None:
    asked = head(0, path="/livez", method="GET")
    with target.connect() as client:
        client.sendall(asked)
        assert status_of(client) == 200
        time.sleep(0.2)
        client.sendall(begun)
        if begun == b"\r\n":  # which is no request, so that there is nothing to answer
            assert answer_of(client)[0] == 0
        else:
            assert_too_slow(client)
    target.await_rest()


@WAYS
@pytest.mark.parametrize("dribbles", [False, True], ids=["stops", "dribbles"])
def test_a_body_that_is_too_slow_is_refused_and_changes_nothing(
    target: Target, way: str, *, dribbles: bool
) -> None:
    _, top, body = BODIES[way]
    half = len(body) // 2
    with target.connect() as client:
        client.sendall(top + body[:half])
        began = time.monotonic()
        if dribbles:
            dribble(client, body[half:-1])
        assert_too_slow(client)
        assert PATIENCE.span <= time.monotonic() - began < SOON
    assert_untouched(target, way)


@WAYS
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_within_a_body_changes_nothing(
    target: Target, way: str, how: str
) -> None:
    _, top, body = BODIES[way]
    with target.connect() as client:
        client.sendall(top + body[: len(body) // 2])
        time.sleep(0.1)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half":
            client.shutdown(socket.SHUT_WR)  # of the socket beneath, where there is TLS
            while client.recv(65_536):
                pass
    assert_untouched(target, way)


def test_a_body_that_keeps_the_rate_may_take_its_time(target: Target) -> None:
    """It is refused, for its numbers: so it was received."""
    body = b'{"grads": {"w": [%b]}}' % b",".join([b"1"] * 2000)
    top = head(len(body), "Content-Type: application/json", path="/v1/sessions/small/steps/1")
    with target.connect() as client:
        client.sendall(top)
        piece = int(0.15 * RATE)
        for start in range(0, len(body), piece):  # for a span and a half, twice as fast as it must
            client.sendall(body[start : start + piece])
            time.sleep(0.075)
        assert status_of(client) == 422
    assert_untouched(target)


def test_a_body_that_nobody_reads_has_its_time_too(target: Target) -> None:
    with target.connect() as client:
        client.sendall(head(1000, path="/nothing/here") + b"x")
        assert status_of(client) == 404
        with suppress(BrokenPipeError):  # it is closed without a word, which a Unix socket shows
            dribble(client, b"x" * 100)
        assert answer_of(client)[0] == 0
    target.await_rest()


def test_many_are_let_go_a_few_at_a_time(target: Target) -> None:
    clients = [target.connect() for _ in range(50)]
    for client in clients:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
    for client in clients:
        assert_too_slow(client)
        client.close()
    target.await_rest()
