"""HEAD: what GET would answer, without the body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest
from access_rows import ALL, CONFIG, TYPES
from fuzz.direct import Answer, Direct, Sent, served
from key_files import Callers, bearer
from session_app import running
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from gradstep_server.web.head import HeadAnswers

READ = [path for method, path in ALL if method == "GET"]
SESSION = "/v1/sessions/s"
CURVE = "/v1/schedules/StepLR?base_lr=1&step_size=3"
STREAM = f"{CURVE}&steps=300000"
OWN = {"x-request-id"}


@pytest.fixture(scope="module")
def direct() -> Iterator[Direct]:
    with served() as application:
        grads = json.dumps({"grads": {"w": [1, 1]}}).encode()
        for path, body in (
            (SESSION, json.dumps(CONFIG).encode()),
            (f"{SESSION}/steps/1", grads),
            (f"{SESSION}/epochs/1", b'{"metric": 1}'),
        ):
            assert application.send(Sent("PUT", path, body)).status == 201
        yield application


def _both(direct: Direct, target: str, **headers: str) -> tuple[Answer, Answer]:
    """Return what GET and HEAD answer."""
    got, told = (direct.send(Sent(method, target, headers=headers)) for method in ("GET", "HEAD"))
    return got, told


def _same_head(got: Answer, told: Answer, *but: str) -> bool:
    own = OWN.union(but)
    one, other = ({n: v for n, v in a.headers.items() if n not in own} for a in (got, told))
    return (got.status, one) == (told.status, other)


@pytest.mark.parametrize("path", READ)
def test_every_route_answers_head_as_get(direct: Direct, path: str) -> None:
    kind = TYPES.get(path.split("/")[2]) if path.count("/") > 2 else None
    target = path.format(id="s", n=1, e=1, type=kind, name="swagger-ui.css")
    target = CURVE if "schedules" in path else target
    got, told = _both(direct, target)
    counted = ["content-length"] if path == "/metrics" else []
    assert got.status in {200, 307}
    assert _same_head(got, told, *counted)
    assert "content-length" in told.headers
    assert told.body == b""


def test_a_curve_that_is_known_is_told_so(direct: Direct) -> None:
    tag = direct.send(Sent("HEAD", CURVE)).headers["etag"]
    for known in (tag, "*"):
        got, told = _both(direct, CURVE, **{"if-none-match": known})
        assert _same_head(got, told)
        assert (told.status, told.headers["etag"], told.body) == (304, tag, b"")


@pytest.mark.parametrize(
    "target", [f"{CURVE}&steps=x", "/v1/schedules/None", "/none", "/v1/sessions/none"]
)
def test_what_get_refuses_head_refuses(direct: Direct, target: str) -> None:
    got, told = _both(direct, target)
    assert got.status >= 400
    assert _same_head(got, told)
    assert told.body == b""


def test_a_stream_has_no_length_and_is_not_written(direct: Direct) -> None:
    got, told = _both(direct, STREAM)
    assert _same_head(got, told)
    assert (told.status, told.body) == (200, b"")
    assert "content-length" not in told.headers


@pytest.mark.parametrize(("spec_version", "most"), [("2.3", 2), ("2.4", 1)])
def test_of_an_answer_in_pieces_none_is_made_behind_the_first(spec_version: str, most: int) -> None:
    made = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal made
        while made < 1000:
            made += 1
            yield b"piece"

    messages = _answered(StreamingResponse(pieces()), spec_version)
    assert [message["type"] for message in messages] == [
        "http.response.start",
        "http.response.body",
    ]
    assert messages[1] == {"type": "http.response.body", "body": b""}
    assert 1 <= made <= most


def test_what_only_posts_allows_no_head(direct: Direct) -> None:
    told = direct.send(Sent("HEAD", "/v1/schedules"))
    assert (told.status, told.headers["allow"], told.body) == (405, "POST", b"")
    refused = direct.send(Sent("DELETE", "/v1/schedules/StepLR"))
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_counted_as_head_by_its_route(direct: Direct) -> None:
    direct.send(Sent("HEAD", f"{SESSION}/params"))
    page = direct.send(Sent("GET", "/metrics")).body.decode()
    labels = 'method="HEAD",route="/v1/sessions/{id}/params",status="2xx"'
    assert f"gradstep_requests_total{{{labels}}}" in page


def test_head_needs_the_key_that_get_needs(who: Callers) -> None:
    read = bearer(who.keys["read"])
    with running(keys_file=who.file) as service:
        assert service.request("HEAD", "/v1/sessions").status_code == 401
        assert service.request("HEAD", "/v1/sessions", headers=read).status_code == 200
        assert service.request("HEAD", "/metrics", headers=read).status_code == 403


def _answered(response: Response, spec_version: str) -> list[Message]:
    """Return what comes of a HEAD that is answered with a response to GET."""
    messages: list[Message] = []

    async def receive() -> Message:
        return await asyncio.Future()

    async def send(message: Message) -> None:
        messages.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["method"] == "GET"
        await response(scope, receive, send)

    scope = {"type": "http", "method": "HEAD", "asgi": {"spec_version": spec_version}}
    asyncio.run(_call(HeadAnswers(app), scope, receive, send))
    assert scope["method"] == "HEAD"
    return messages


async def _call(app: HeadAnswers, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
