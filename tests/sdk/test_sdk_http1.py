"""HTTP/1.1 as text: what the SDK writes, what it takes for an answer, and what it refuses."""

from __future__ import annotations

import httpx
import pytest

from gradstep._http1 import CHUNKED, UNTIL_CLOSE, answer_head, chunk_size, request_head


def test_a_request_is_written_as_it_is() -> None:
    head = request_head("PUT", "/v1/s%20x?loss=1", {"Host": "host:81", "A-b": "c"})
    assert head == b"PUT /v1/s%20x?loss=1 HTTP/1.1\r\nHost: host:81\r\nA-b: c\r\n\r\n"


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nb", "a\rb", "a\0b"])
@pytest.mark.parametrize("where", ["name", "value"])
def test_a_header_cannot_smuggle_another(value: str, where: str) -> None:
    header = {value: "x"} if where == "name" else {"X": value}
    with pytest.raises(httpx.LocalProtocolError, match="line end or a zero byte"):
        request_head("GET", "/", header)


def test_a_head_is_read_to_its_parts() -> None:
    head = answer_head(b'HTTP/1.1 201 Created\r\nETag:  "1" \r\nX: a\r\nx:b\r\nY:', "PUT")
    assert head.status == 201
    assert head.headers == {"etag": '"1"', "x": "a, b", "y": ""}
    assert (head.length, head.reusable, head.interim) == (UNTIL_CLOSE, False, False)


@pytest.mark.parametrize(
    ("text", "method", "length", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", "GET", CHUNKED, True),
        (b"HTTP/1.1 200", "GET", UNTIL_CLOSE, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1", "GET", 1, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close", "GET", 1, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7, 7\r\nContent-Length: 7", "GET", 7, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7", "HEAD", 0, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7", "GET", 0, True),
        (b"HTTP/1.1 204 No Content", "DELETE", 0, True),
        (b"HTTP/1.1 100 Continue", "PUT", 0, True),
    ],
)
def test_the_body_ends_where_the_head_says(
    text: bytes, method: str, length: int, *, reusable: bool
) -> None:
    head = answer_head(text, method)
    assert (head.length, head.reusable) == (length, reusable)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 99 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 200 OK\r\nA : b",
        b"HTTP/1.1 200 OK\r\n folded: b",
        b"HTTP/1.1 200 OK\r\n: b",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d",
        b"HTTP/1.1 200 OK\r\nA: \0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 200 OK\r\nContent-Length:",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 19,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    ],
    ids=repr,
)
def test_a_head_in_doubt_is_refused(text: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        answer_head(text, "GET")


@pytest.mark.parametrize(
    ("line", "size"), [(b"0", 0), (b"fF", 255), (b"10;name=value", 16), (b"10 ; x", 16)]
)
def test_the_size_of_a_chunk_is_hexadecimal(line: bytes, size: int) -> None:
    assert chunk_size(line) == size


@pytest.mark.parametrize("line", [b"", b"-1", b"0x10", b"g", b"1 2", b"+1", b"f" * 16], ids=repr)
def test_what_is_no_size_of_a_chunk_is_refused(line: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="no size of a chunk"):
        chunk_size(line)
