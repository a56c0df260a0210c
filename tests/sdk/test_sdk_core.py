"""Requests and answers as bytes, with no client and no server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

import gradstep
from gradstep import _calls, _core, _retry
from gradstep._core import BLOCK, SMALL, Answer, Attempts, Body, Call, Inbox, Request
from gradstep._reused import Reused
from gradstep._senders import base_url


def body(*sizes: int) -> Body:
    random = np.random.default_rng(0)
    return Body("x/y", tuple(memoryview(random.bytes(size)) for size in sizes))


def answer(status: int, content: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, httpx.Headers(named), memoryview(content))


@pytest.mark.parametrize(
    "sizes",
    [
        (0,),
        (1,),
        (BLOCK,),
        (BLOCK + 1,),
        (BLOCK - 1, 1, 1),
        (10, 3 * BLOCK, 10),
        (1000,) * 1000,
        (0, 5, 0, 2 * BLOCK, 0),
    ],
)
def test_a_body_is_sent_in_blocks_of_one_size(sizes: tuple[int, ...]) -> None:
    sent = body(*sizes)
    blocks = list(sent.blocks())
    assert b"".join(blocks) == b"".join(sent.pieces)
    assert all(len(block) == BLOCK for block in blocks[:-1])
    assert list(sent.blocks()) == blocks, "a second attempt reads the same"

    async def collected() -> list[bytes]:
        return [block async for block in sent.blocks_async()]

    assert anyio.run(collected) == blocks


def test_a_small_body_is_sent_as_one_piece() -> None:
    assert body(10, 20).if_small() == b"".join(body(10, 20).pieces)
    assert body(SMALL).if_small() is None


def test_a_request_announces_its_body() -> None:
    request = Request("PUT", "/v1/x", headers={"If-Match": '"1-2"'}, body=body(3, 4))
    headers = request.all_headers()
    assert headers["Content-Length"] == "7"
    assert headers["Content-Type"] == "x/y"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["If-Match"] == '"1-2"'
    assert headers["X-Request-Id"] == request.id
    assert headers["User-Agent"] == f"gradstep-python/{gradstep.__version__}"
    assert "Content-Length" not in Request("GET", "/v1/x").all_headers()


@pytest.mark.parametrize(
    ("method", "headers", "repeatable"),
    [
        ("GET", {}, True),
        ("PUT", {}, True),
        ("DELETE", {}, True),
        ("PATCH", {"If-Match": '"1-2"'}, True),
        ("PATCH", {}, False),
        ("POST", {"If-Match": '"1-2"'}, True),
        ("POST", {}, False),
    ],
)
def test_only_what_the_server_recognises_is_repeated(
    method: str, headers: dict[str, str], repeatable: bool
) -> None:
    request = Request(method, "/v1/x", headers=headers)
    assert request.repeatable is repeatable
    waits = Attempts(request, 3).wait_after(answer(503))
    assert (waits is not None) is repeatable


def test_every_request_has_an_id_of_its_own() -> None:
    assert Request("GET", "/v1/x").id != Request("GET", "/v1/x").id


def test_an_answer_is_received_into_one_buffer() -> None:
    inbox = Inbox(200, {}, 6, Reused())
    inbox.write(b"abc")
    inbox.write(b"def")
    received = inbox.answer()
    assert (received.status, bytes(received.body)) == (200, b"abcdef")
    assert not received.body.readonly


def test_an_answer_without_a_length_grows() -> None:
    written, filled = (Inbox(200, {}, None, Reused()) for _ in range(2))
    whole = b"".join(bytes([i]) * 100_000 for i in range(20))
    left = memoryview(whole)
    for begin in range(0, len(whole), 100_000):
        written.write(whole[begin : begin + 100_000])
    while left:
        room = filled.room[: len(left)]
        room[:] = left[: len(room)]
        filled.filled(len(room))
        left = left[len(room) :]
    assert written.answer().body == filled.answer().body == whole


def test_an_answer_of_another_length_than_announced_is_refused() -> None:
    inbox = Inbox(200, {}, 3, Reused())
    inbox.write(b"ab")
    with pytest.raises(gradstep.AnswerMalformed, match="shorter than it announced"):
        inbox.answer()
    with pytest.raises(gradstep.AnswerMalformed, match="longer than it announced"):
        inbox.write(b"cd")


@pytest.mark.parametrize("length", [10**14, 10**18, 10**30])
def test_an_answer_for_which_there_is_no_memory_is_refused(length: int) -> None:
    with pytest.raises(gradstep.AnswerMalformed, match=f"announces {length} bytes"):
        Inbox(200, {}, length, Reused())


def test_a_problem_is_read_in_full() -> None:
    document = {
        "type": "urn:gradstep:problem:position-mismatch",
        "title": "This is not the next position",
        "status": 409,
        "detail": "send 5",
        "code": "position-mismatch",
        "request_id": "r1",
        "pointer": "/a",
        "errors": [{"pointer": "/a", "detail": "wrong"}],
        "expected": 5,
    }
    refused = answer(409, json.dumps(document).encode(), retry_after="3")
    with pytest.raises(gradstep.PositionMismatch) as caught:
        Call(Request("GET", "/v1/x"), lambda _: None).finish(refused)
    error = caught.value
    assert (error.status, error.code, error.detail, error.pointer) == (
        409,
        "position-mismatch",
        "send 5",
        "/a",
    )
    assert error.errors == (gradstep.Fault("/a", "wrong"),)
    assert (error.request_id, error.expected, error.problem.retry_after) == ("r1", 5, 3.0)
    assert error.problem.extra == {"expected": 5}
    assert str(error) == "409 position-mismatch: send 5 (request r1)"


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\xff", b"[]", b"3", b'{"detail": null, "errors": 3}', b'{"errors": [1]}'],
)
def test_a_refusal_by_another_than_gradstep_is_still_an_error(content: bytes) -> None:
    request = Request("GET", "/v1/x")
    with pytest.raises(gradstep.Unavailable) as caught:
        Call(request, lambda _: None).finish(answer(502, content))
    assert caught.value.request_id == request.id
    assert caught.value.detail == "GET /v1/x failed"
    assert caught.value.errors == ()


@pytest.mark.parametrize(
    ("location", "to"),
    [("https://there/", "https://there/"), ("", "another address, which it does not name")],
)
def test_a_redirect_is_no_success_and_says_where_it_leads(location: str, to: str) -> None:
    with pytest.raises(gradstep.ApiError, match=f"GET /v1/x is referred to {to}"):
        Call(Request("GET", "/v1/x"), lambda _: None).finish(answer(301, location=location))


def test_a_call_passes_its_result_on() -> None:
    call = Call(Request("GET", "/v1/x"), lambda answer: len(answer.body)).then(str)
    assert call.finish(answer(200, b"abc")) == "3"
    with pytest.raises(gradstep.Unavailable):
        call.finish(answer(503))


def test_waits_double_under_their_bound_until_retries_are_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bounds: list[float] = []

    class Highest:
        def uniform(self, low: float, high: float) -> float:
            assert low == 0.0
            bounds.append(high)
            return high

    monkeypatch.setattr(_retry, "_jitter", Highest())
    attempts = Attempts(Request("PUT", "/v1/x"), 7)
    waits = [attempts.wait_after(httpx.ConnectError("no")) for _ in range(8)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, None]
    assert bounds == waits[:-1]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_wait_is_no_shorter_than_the_server_asks(status: int) -> None:
    attempts = Attempts(Request("PUT", "/v1/x"), 1)
    assert attempts.wait_after(answer(status, retry_after="17")) == 17.0


def test_a_wait_that_is_too_long_is_left_to_the_caller() -> None:
    attempts = Attempts(Request("PUT", "/v1/x"), 5)
    assert attempts.wait_after(answer(503, retry_after="61")) is None


@pytest.mark.parametrize("status", [200, 201, 204, 400, 404, 409, 412, 422, 500, 507])
def test_an_answer_that_would_not_change_is_final(status: int) -> None:
    assert Attempts(Request("PUT", "/v1/x"), 5).wait_after(answer(status)) is None


@pytest.mark.parametrize(
    ("failure", "repeated"),
    [
        (httpx.ConnectError("x"), True),
        (httpx.ReadTimeout("x"), True),
        (httpx.WriteError("x"), True),
        (httpx.RemoteProtocolError("x"), True),
        (httpx.PoolTimeout("x"), True),
        (httpx.ProxyError("x"), True),
        (httpx.UnsupportedProtocol("x"), False),
        (httpx.LocalProtocolError("x"), False),
        (httpx.DecodingError("x"), False),
    ],
)
def test_only_passing_failures_are_met_again(failure: httpx.RequestError, repeated: bool) -> None:
    wait = Attempts(Request("GET", "/v1/x"), 5).wait_after(failure)
    assert (wait is not None) is repeated


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert _retry.retry_after("120") == 120.0
    assert _retry.retry_after(" 0 ") == 0.0
    for nothing in (None, "", "soon", "-1", "1.5e9x"):
        assert _retry.retry_after(nothing) is None
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 28 <= (_retry.retry_after(format_datetime(later, usegmt=True)) or 0) <= 30
    assert _retry.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert _retry.retry_after("Wed, 21 Oct 2015 07:28:00 -0000") == 0.0


def test_a_step_says_all_but_the_gradients_beside_them() -> None:
    request = _calls.step(
        "s1",
        7,
        {"w": np.zeros(2, np.float32)},
        generation=3,
        loss=np.float32(0.1),
        lr=[0.1, 1e-17],
        want_params=True,
        dtype="F16",
    ).request
    assert (request.method, request.path) == ("PUT", "/v1/sessions/s1/steps/7")
    assert request.query == {"dtype": "F16", "loss": "0.10000000149011612", "lr": "0.1,1e-17"}
    assert request.target == f"{request.path}?dtype=F16&loss=0.10000000149011612&lr=0.1%2C1e-17"
    assert request.headers == {"Gradstep-Generation": "3"}
    assert request.accept == "application/vnd.safetensors"
    assert request.body is not None
    assert request.body.media_type == "application/vnd.safetensors"


def test_a_configuration_says_only_what_was_given() -> None:
    request = _calls.create_session(
        "s1", params=None, optimizer="AdamW", scheduler=None, dtype=None, clip=None, name="n"
    ).request
    assert request.body is not None
    assert json.loads(bytes(request.body.pieces[0])) == {
        "optimizer": {"type": "AdamW"},
        "name": "n",
    }


def test_a_patch_tells_none_from_nothing() -> None:
    request = _calls.patch(
        "s1", generation=1, etag='"1-2"', scheduler=None, lr=gradstep.UNSET, clip=None, name="n"
    ).request
    assert request.body is not None
    assert json.loads(bytes(request.body.pieces[0])) == {
        "scheduler": None,
        "clip": None,
        "name": "n",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _core.json_body({"value": value})


@pytest.mark.parametrize("address", ["", "host:8000", "ftp://host", "http://", "/v1", "http://[::"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        base_url(address)


@pytest.mark.parametrize("surplus", ["?token=1", "/v1?x#y", "#part", "?", "/#"])
def test_an_address_that_would_swallow_the_path_of_a_request_is_refused(surplus: str) -> None:
    with pytest.raises(ValueError, match=r"it must end before its '[?#]'$"):
        base_url(f"http://host{surplus}")


def test_the_path_of_an_address_is_kept() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://host/prefix/v1/optimizers"
        return httpx.Response(200, json={"optimizers": []})

    with gradstep.Client("http://host/prefix", transport=httpx.MockTransport(handle)) as client:
        assert client.optimizers() == []
