"""Answers that never change are computed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gradstep_server.app import create_app
from gradstep_server.settings import Settings
from gradstep_server.web.caching import headers_for
from gradstep_server.web.kept_answers import LARGEST, OVERHEAD, KeptAnswers

FIXED = headers_for("fixed")
CURVE = "/v1/schedules/StepLR?step_size=2&base_lr=0.1&steps=5"


class Counting:
    """Answers with how often it was asked, as its query wants it."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self._response(Request(scope).url.query)(scope, receive, send)

    def _response(self, query: str) -> Response:
        content = str(self.asked)
        if query == "changing":
            return PlainTextResponse(content, headers={"ETag": '"x"'})
        if query == "failing":
            return PlainTextResponse(content, 422, headers=FIXED)
        if query == "streaming":
            return StreamingResponse(self._pieces(), headers=FIXED)
        large = "x" * LARGEST if query == "large" else ""
        return PlainTextResponse(content + large, headers=FIXED)

    async def _pieces(self) -> AsyncIterator[str]:
        yield str(self.asked)
        yield "more"


def _ask(app: KeptAnswers, url: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, url, headers=headers)

    return asyncio.run(ask())


def test_what_never_changes_is_asked_for_once() -> None:
    app = KeptAnswers(Counting())
    first, again = _ask(app, "/a?b"), _ask(app, "/a?b")
    assert (again.status_code, again.content, again.headers) == (200, b"1", first.headers)
    assert _ask(app, "/a?c").text == "2"
    assert _ask(app, "/b?b").text == "3"


@pytest.mark.parametrize("query", ["changing", "failing", "streaming", "large"])
def test_what_may_change_or_is_long_is_asked_for_each_time(query: str) -> None:
    app = KeptAnswers(Counting())
    first, again = _ask(app, f"/?{query}"), _ask(app, f"/?{query}")
    assert (first.text[0], again.text[0]) == ("1", "2")
    assert first.status_code == again.status_code


def test_another_method_is_not_answered_with_what_a_get_has_got() -> None:
    app = KeptAnswers(Counting())
    assert [_ask(app, "/", method).text for method in ("POST", "GET", "POST")] == ["1", "2", "3"]


def test_who_has_what_is_kept_gets_a_304() -> None:
    app = KeptAnswers(Counting())
    tag = _ask(app, "/").headers["ETag"]
    answer = _ask(app, "/", **{"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert {name: answer.headers[name] for name in FIXED} == dict(FIXED)
    assert _ask(app, "/", **{"If-None-Match": '"other"'}).text == "1"


def test_what_was_not_asked_for_the_longest_makes_room() -> None:
    app = KeptAnswers(Counting(), size=2 * (OVERHEAD + len("/a1")))
    assert [_ask(app, url).text for url in ("/a", "/b", "/a", "/c")] == ["1", "2", "1", "3"]
    assert [_ask(app, url).text for url in ("/c", "/a", "/b")] == ["3", "1", "4"]


def test_what_is_asked_by_long_addresses_takes_their_room_too() -> None:
    app = KeptAnswers(Counting(), size=2 * (OVERHEAD + len("/a1")))
    assert [_ask(app, url).text for url in ("/a", "/a?bc", "/a")] == ["1", "2", "3"]


def test_two_that_ask_at_once_get_the_answer_and_one_is_kept() -> None:
    app = KeptAnswers(Counting(), size=OVERHEAD + len("/a1"))
    app.keep(("/a", b""), [], b"x")
    app.keep(("/a", b""), [], b"y")
    assert app._answers.keys() == {("/a", b"")}
    app.keep(("/b", b""), [], b"z")
    assert app._answers.keys() == {("/b", b"")}


def test_a_curve_is_kept_without_what_belongs_to_its_request() -> None:
    app = create_app(Settings(store="memory://"))

    async def ask(**headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.get(CURVE, headers=headers)

    first = asyncio.run(ask(**{"X-Request-Id": "one", "Origin": "http://a.example"}))
    again = asyncio.run(ask(**{"X-Request-Id": "two"}))
    assert again.content == first.content
    assert again.headers["X-Request-Id"] == "two"
    assert "Access-Control-Allow-Origin" in first.headers
    assert "Access-Control-Allow-Origin" not in again.headers
