"""One request and its answer over the SDK's own transports, whatever a server does with them."""

from __future__ import annotations

import gzip
import socket
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest
from scripted_server import PATIENCE, Script, ScriptedServer, answers, received
from wire_clients import FORMS, Fetched, fetching, loopback

import gradstep
from gradstep._connection import MAX_INTERIM
from gradstep._http1 import MAX_HEAD

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
LARGE = b"x" * (16 << 20)
"""More than the sockets of both sides hold."""

pytestmark = pytest.mark.parametrize("form", FORMS)


def exchanged(form: str, script: Script, method: str = "GET", **options: Any) -> Fetched:
    """Return the answer to one request."""
    with ScriptedServer(script) as server, fetching(form, loopback(server.port)) as fetch:
        return fetch(method, **options)


def dripping(text: bytes, size: int) -> Script:
    """Return a script that answers in pieces."""

    def run(connection: socket.socket) -> None:
        received(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(text), size):
            connection.sendall(text[begin : begin + size])

    return run


def test_an_answer_has_its_parts(form: str) -> None:
    text = b"HTTP/1.1 201 Created\r\nETag: 1\r\nContent-Length: 5\r\n\r\nhello"
    answer = exchanged(form, answers(text))
    assert (answer.status, answer.headers["etag"]) == (201, "1")
    assert answer.content == b"hello"


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\n\r\n0123456789",
        CHUNKS + b"1\r\n0\r\n4;a=b\r\n1234\r\n005\r\n56789\r\n0\r\nTrailer: x\r\n\r\n",
        INTERIM + b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
    ],
    ids=["length", "close", "chunks", "interim"],
)
def test_an_answer_may_come_in_any_pieces(form: str, text: bytes, size: int) -> None:
    answer = exchanged(form, dripping(text, size))
    assert (answer.status, answer.content) == (200, b"0123456789")


def test_a_long_chunk_and_many_short_ones_are_joined(form: str) -> None:
    long = b"y" * 1_000_000
    text = CHUNKS
    text += b"%x\r\n%s\r\n" % (len(long), long) + b"1\r\nz\r\n" * 2_000 + b"0\r\n\r\n"
    assert exchanged(form, answers(text)).content == long + b"z" * 2_000


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"),
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(form: str, method: str, head: bytes) -> None:
    with (
        ScriptedServer(answers(head, OK)) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        assert fetch(method).content == b""
        assert fetch("GET").content == b"ok"


@pytest.mark.parametrize(
    ("text", "when"),
    [
        (b"", "before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "within its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012345678", "within its answer"),
        (CHUNKS, "within its answer"),
        (CHUNKS + b"5\r\n0123", "within its answer"),
        (CHUNKS + b"4\r\n0123\r\n", "within its answer"),
        (CHUNKS + b"0\r\n", "within its answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "before it answered"),
    ],
    ids=repr,
)
def test_an_answer_that_ends_early_is_an_error(form: str, text: bytes, when: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=f"closed the connection {when}"):
        exchanged(form, answers(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (CHUNKS + b"4\r\n01234\r\n0\r\n\r\n", "a chunk is longer than it announced"),
        (CHUNKS + b"4;" + b"x" * 1000 + b"\r\n", "a chunk's size.* has no end"),
        (CHUNKS + b"0\r\n" + b"T: x\r\n" * MAX_HEAD, "follows the last chunk, has no end"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n", "head is longer than 65536"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAX_HEAD, "head is longer than 65536 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + OK, "answer without end"),
        (b"<html>no HTTP at all</html>\r\n\r\n", "no status line: '<html>no HTTP"),
    ],
    ids=["chunk", "extension", "trailers", "header", "headers", "interim", "page"],
)
def test_an_answer_in_doubt_or_without_bounds_is_an_error(form: str, text: bytes, why: str) -> None:
    def run(connection: socket.socket) -> None:
        received(connection)
        with suppress(OSError):  # the client may have seen enough before it has all
            connection.sendall(text)

    with pytest.raises(httpx.RemoteProtocolError, match=why):
        exchanged(form, run)


def test_an_answer_that_announces_more_than_memory_holds_is_told(form: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000000\r\n\r\n"
    with pytest.raises(gradstep.AnswerMalformed, match="announces 100000000000000 bytes"):
        exchanged(form, answers(head))


def test_a_head_as_long_as_it_may_be_is_read(form: str) -> None:
    start, end = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: ", b"\r\n\r\n"
    filler = b"x" * (MAX_HEAD - len(start) - len(end))
    answer = exchanged(form, answers(start + filler + end + b"ok"))
    assert answer.headers["x"] == filler.decode()
    assert answer.content == b"ok"


def test_a_body_goes_out_in_order_whatever_its_pieces(form: str) -> None:
    pieces = [b"a" * 300_000, b"", b"b", b"c" * 3_000_000, *[b"%d" % n for n in range(3000)]]
    whole = b"".join(pieces)
    bodies: list[bytes] = []

    def run(connection: socket.socket) -> None:
        bodies.append(received(connection)[1])
        connection.sendall(OK)

    exchanged(form, run, "PUT", content=pieces)
    assert bodies == [whole]


def test_a_coding_that_nobody_asked_for_is_undone(form: str) -> None:
    text = gzip.compress(b"hello" * 100_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(text)
    assert exchanged(form, answers(head + text)).content == b"hello" * 100_000
    with pytest.raises(httpx.DecodingError):
        exchanged(form, answers(head + bytes(len(text))))


def test_a_small_request_is_one_write(form: str) -> None:
    """In two, the second would wait for the acknowledgement of the first."""
    texts: list[bytes] = []

    def run(connection: socket.socket) -> None:
        texts.append(connection.recv(1 << 20))
        connection.sendall(OK)

    exchanged(form, run, "PUT", content=b"body")
    assert texts[0].endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("close", [False, True], ids=["stays", "closes"])
def test_a_refusal_before_the_body_is_read_is_told(form: str, *, close: bool) -> None:
    heard = threading.Event()

    def run(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(REFUSED)
        if not close:
            assert heard.wait(PATIENCE)

    with ScriptedServer(run) as server, fetching(form, loopback(server.port)) as fetch:
        answer = fetch("PUT", LARGE)
        heard.set()
    assert (answer.status, answer.content) == (413, b"big")


def test_what_is_announced_while_the_body_is_sent_does_not_end_it(form: str) -> None:
    bodies: list[bytes] = []

    def run(connection: socket.socket) -> None:
        connection.sendall(INTERIM)
        bodies.append(received(connection)[1])
        connection.sendall(OK)

    assert exchanged(form, run, "PUT", content=LARGE).content == b"ok"
    assert bodies[0] == LARGE


def test_a_server_that_closes_within_the_request_is_an_error(form: str) -> None:
    def run(connection: socket.socket) -> None:
        connection.recv(1000)

    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        exchanged(form, run, "PUT", content=LARGE)


def test_large_bodies_go_both_ways(form: str) -> None:
    def run(connection: socket.socket) -> None:
        body = received(connection)[1]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)

    assert exchanged(form, run, "PUT", content=LARGE).content == LARGE
