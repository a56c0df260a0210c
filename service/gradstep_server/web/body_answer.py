"""Large answers, sent no faster than they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastapi import Response
from starlette.background import BackgroundTask
from starlette.types import Receive, Scope, Send

from gradstep_server.sessions.store import Body

PIECE = 1 << 20
"""Bytes handed to the server at a time, so that it can wait for a slow reader."""

JOINED = 256 * 1024
"""Bytes of small parts that are sooner copied together than sent one by one."""


class BodyAnswer(Response):
    """An answer made of byte views, sent piece by piece without joining them."""

    def __init__(self, parts: Body, headers: Mapping[str, str], media_type: str) -> None:
        self.parts = parts
        self.status_code = 200
        self.media_type = media_type
        self.background: BackgroundTask | None = None
        self.body = b""
        self.init_headers({"Content-Length": str(sum(map(len, parts))), **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the parts."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        held: bytes | memoryview = b""
        for piece in pieces(self.parts):
            if held:
                await send({"type": "http.response.body", "body": held, "more_body": True})
            held = piece
        await send({"type": "http.response.body", "body": held, "more_body": False})


def pieces(parts: Body) -> Iterator[bytes | memoryview]:
    """Yield the bytes of an answer as they are sent: small parts joined, large ones divided."""
    small: list[memoryview] = []
    size = 0
    for part in parts:
        if small and size + len(part) > JOINED:
            yield b"".join(small)
            small, size = [], 0
        if len(part) > JOINED:
            for begin in range(0, len(part), PIECE):
                yield part[begin : begin + PIECE]
        else:
            small.append(part)
            size += len(part)
    if small:
        yield b"".join(small)


def whole_answer(
    parts: Sequence[bytes | memoryview], headers: Mapping[str, str] | None, media_type: str
) -> Response:
    """Answer with bytes; many of them are counted as long as they have not been sent.

    What Starlette sends at once is the server's to keep until the last of it is read.
    """
    if sum(map(len, parts)) <= PIECE:
        return Response(b"".join(parts), headers=headers, media_type=media_type)
    return BodyAnswer([memoryview(part) for part in parts], headers or {}, media_type)
