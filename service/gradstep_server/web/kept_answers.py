"""Answers that never change are computed once, for however many ask for them.

A dashboard that many look at asks for the same few curves all day, each viewer's
browser for itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.web.caching import FOREVER, not_modified

SIZE = 32 * 2**20
"""The bytes of all answers that are kept, with what they were asked by."""

LARGEST = 2**18
"""The bytes of one: what is larger takes its time to be sent anyway."""

OVERHEAD = 2_000
"""What an answer takes beside its body and its address."""

_Key = tuple[str, bytes]


@dataclass(frozen=True)
class _Answer:
    """A whole answer with the status 200."""

    headers: list[tuple[bytes, bytes]]
    body: bytes

    def validators(self) -> Mapping[str, str]:
        """Return the headers that a 304 has too."""
        headers = Headers(raw=self.headers)
        return {name: headers[name] for name in ("ETag", "Cache-Control")}


class KeptAnswers:
    """ASGI middleware: keeps the latest answers that call themselves immutable, and gives them.

    Such an answer follows from the address and its query alone.
    """

    def __init__(self, app: ASGIApp, size: int = SIZE) -> None:
        self.app = app
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()
        self._room = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with what is kept, or pass the call on and keep what comes of it."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        key = (scope["path"], scope["query_string"])
        kept = self._answers.get(key)
        if kept is None:
            await self.app(scope, receive, _Keeping(self, key, send).send)
            return
        self._answers.move_to_end(key)
        unchanged = not_modified(Request(scope), kept.validators())
        if unchanged is not None:
            await unchanged(scope, receive, send)
            return
        # Whoever is further out adds headers, each to a list of its own.
        await send({"type": "http.response.start", "status": 200, "headers": [*kept.headers]})
        await send({"type": "http.response.body", "body": kept.body})

    def keep(self, key: _Key, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Keep an answer, and let go of those that were not asked for the longest."""
        if key in self._answers:  # two may have asked at once
            return
        self._answers[key] = _Answer(headers, body)
        self._room -= _size(key, body)
        while self._room < 0:
            oldest, answer = self._answers.popitem(last=False)
            self._room += _size(oldest, answer.body)


def _size(key: _Key, body: bytes) -> int:
    return sum(map(len, (*key, body))) + OVERHEAD


class _Keeping:
    """Passes an answer on, and keeps it if it never changes and is small."""

    def __init__(self, answers: KeptAnswers, key: _Key, send: Send) -> None:
        self._answers = answers
        self._key = key
        self._send = send
        self._headers: list[tuple[bytes, bytes]] | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            forever = (b"cache-control", FOREVER.encode()) in message["headers"]
            if message["status"] == 200 and forever:  # noqa: PLR2004 - the code for all went well
                self._headers = [*message["headers"]]
        elif self._headers is not None and not message.get("more_body", False):
            if len(message["body"]) <= LARGEST:
                self._answers.keep(self._key, self._headers, message["body"])
        else:
            self._headers = None  # it comes in pieces
        await self._send(message)
