"""No body is larger than the limit, or of another length than announced."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.types import Message
from stateless_app import JSON, chunked, client, stateless_app

from gradstep_server.sessions.buffers import Buffers
from gradstep_server.web.receiving import receive

LIMIT = 1_000


def test_an_announced_length_beyond_the_limit_is_refused_before_it_is_read() -> None:
    app = stateless_app(max_body_size=LIMIT)
    response = client(app).post("/v1/schedules", content=b" " * 1_001, headers=JSON)
    assert response.status_code == 413
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "body-too-large"
    assert "1001 bytes; the limit is 1000" in response.json()["detail"]


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit() -> None:
    app = stateless_app(max_body_size=LIMIT)
    response = client(app).post("/v1/schedules", content=chunked(*[b" " * 100] * 11), headers=JSON)
    assert response.status_code == 413
    assert response.json()["code"] == "body-too-large"


def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = b'{"scheduler": {"type": "StepLR", "step_size": 3}, "base_lr": 0.1}'.ljust(LIMIT)
    app = stateless_app(max_body_size=LIMIT)
    assert client(app).post("/v1/schedules", content=body, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    "length", [b"x", b"", b"-1", b"+1", b"1_0", b"2, 2", b"\xb2", b"9" * 5_000]
)
def test_a_length_that_is_none_is_refused_whatever_server_let_it_through(length: bytes) -> None:
    answer = _asked(stateless_app(_router), length, b"{}")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "malformed-request"
    assert "is not a number of bytes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("length", "detail"),
    [(b"3", "the body ended after 2 of 3 bytes"), (b"1", "has more than the 1 bytes")],
)
def test_a_body_of_another_length_than_announced_is_refused(length: bytes, detail: str) -> None:
    answer = _asked(stateless_app(_router), length, b"{}")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")
    assert detail in answer.json()["detail"]


_router = APIRouter()


@_router.put("/received")
async def _received(request: Request) -> int:
    return len(await receive(request, Buffers(0)))


def _asked(app: FastAPI, length: bytes, body: bytes) -> httpx.Response:
    """Call an application as a server would that passes every length on."""
    sent: list[Message] = []
    scope: dict[str, Any] = {
        "type": "http",
        "method": "PUT",
        "path": "/received",
        "query_string": b"",
        "headers": [(b"content-length", length)],
    }

    async def receive_body() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive_body, send))
    begin, *rest = sent
    content = b"".join(message["body"] for message in rest)
    return httpx.Response(begin["status"], headers=begin["headers"], content=content)
