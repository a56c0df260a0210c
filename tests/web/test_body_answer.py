"""A large answer is sent piece by piece, a small one at once."""

from __future__ import annotations

import pytest
from starlette.types import Message

from gradstep_server.web.body_answer import PIECE, whole_answer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("size", "pieces"),
    [(0, [0]), (PIECE, [PIECE]), (2 * PIECE + 5, [PIECE, PIECE, 5])],
)
async def test_an_answer_is_sent_no_faster_than_it_is_read(size: int, pieces: list[int]) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is to be received")

    answer = whole_answer([content], {"ETag": '"1"'}, "text/csv")
    await answer({"type": "http"}, receive, send)

    start, *bodies = sent
    headers = dict(start["headers"])
    assert (headers[b"content-length"], headers[b"etag"]) == (str(size).encode(), b'"1"')
    assert headers[b"content-type"].startswith(b"text/csv")
    assert [len(body["body"]) for body in bodies] == pieces
    assert b"".join(bytes(body["body"]) for body in bodies) == content
    assert not bodies[-1].get("more_body", False)
