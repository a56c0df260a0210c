"""The head of an answer and the first piece of its body leave together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest
import socket_server
from socket_server import How, Loop
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gradstep_server.web.one_write import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Written(asyncio.Transport):
    """Keeps what each call wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.calls.append(b"".join(list_of_data))

    def close(self) -> None:
        self.calls.append(b"closed")

    def is_closing(self) -> bool:
        return b"closed" in self.calls


def test_the_head_waits_for_the_first_piece_and_for_no_more() -> None:
    written = Written()
    answer = OneWrite(written)
    answer.write(HEAD)
    assert written.calls == []
    answer.write(b"first")
    answer.write(memoryview(b"second"))
    answer.flush()
    assert written.calls == [HEAD + b"first", b"second"]


@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_head_without_a_body_is_sent_when_the_answer_ends(
    end: Literal["flush", "close"],
) -> None:
    written = Written()
    answer = OneWrite(written)
    answer.write(HEAD)
    getattr(answer, end)()
    answer.flush()
    assert written.calls == [HEAD, b"closed"][: 1 + (end == "close")]
    assert answer.is_closing() == (end == "close")


def test_nothing_is_made_up_where_nothing_was_written() -> None:
    written = Written()
    answer = OneWrite(written)
    answer.flush()
    answer.close()
    assert written.calls == [b"closed"]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer by the path: nothing, a little, or in pieces."""
    answers = {
        "/none": Response(status_code=204),
        "/little": Response(b"little"),
        "/pieces": StreamingResponse(iter([b"one", b"", b"two"])),
    }
    await answers[scope["path"]](scope, receive, send)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/none", "/little", "/pieces"])
def test_every_kind_of_answer_arrives_whole_on_one_connection(
    loop: Loop, method: str, path: str
) -> None:
    body = {"/little": b"little", "/pieces": b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"}.get(path, b"")
    ask = f"{method} {path} HTTP/1.1\r\nHost: here\r\n"
    how = How(loop=loop, kind="tcp", grace=5)
    with (
        socket_server.served(app, how, Path()) as running,
        running.connect() as client,
        client.makefile("rb") as lines,
    ):
        for more in ("", "Connection: close\r\n"):
            client.sendall(f"{ask}{more}\r\n".encode())
            assert lines.readline().split()[1] == (b"204" if path == "/none" else b"200")
            while lines.readline() != b"\r\n":
                continue
            expected = body if method == "GET" else b""
            assert lines.read(len(expected)) == expected
        assert lines.read() == b""
