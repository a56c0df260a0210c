"""One shape for everything that fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import APIRouter, HTTPException
from httpx import Response
from session_app import running
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send
from stateless_app import JSON, client, stateless_app

from gradstep_server.errors import Fault, GradstepError, InvalidRequest
from gradstep_server.sessions import errors
from gradstep_server.web import errors as web_errors
from gradstep_server.web import problems
from gradstep_server.web.problems import Problem

RAISED: dict[str, GradstepError | HTTPException | Exception] = {
    "store": errors.StoreUnavailable("the store is away; try again"),
    "memory": errors.MemoryExhausted("no room"),
    "full": errors.StorageFull("the disk is full"),
    "corrupt": errors.SessionCorrupt("entry 3 does not match its digest"),
    "position": errors.PositionMismatch("send 7 next", expected=7),
    "faults": InvalidRequest(Fault("/grads/w", "has shape (2,)"), Fault("/grads/v", "is unknown")),
    "bad": HTTPException(400, "There was an error parsing the body."),
    "teapot": HTTPException(418, "short and stout"),
    "defect": KeyError("a secret"),
}


def _failing() -> APIRouter:
    routes = APIRouter()

    @routes.get("/fail/{how}")
    async def fail(how: str) -> None:
        raise RAISED[how]

    @routes.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("too late to say so")

        return StreamingResponse(pieces())

    return routes


def _fail(how: str) -> Response:
    return client(stateless_app(_failing())).get(f"/fail/{how}")


def _leaves(cls: type[GradstepError]) -> Iterator[type[GradstepError]]:
    """Yield the errors that are told apart on the wire; others inherit the code of one of them."""
    below = cls.__subclasses__()
    if "code" in vars(cls) or not (below or hasattr(cls, "code")):
        yield cls
    for inner in below:
        yield from _leaves(inner)


@pytest.mark.parametrize("cls", sorted(set(_leaves(GradstepError)), key=str))
def test_every_error_has_a_status_a_code_and_a_title(cls: type[GradstepError]) -> None:
    assert 400 <= problems.status_of(cls) < 600
    assert cls.code == cls.code.lower()
    assert cls.title


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in set(_leaves(GradstepError))]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("cls", "status"),
    [
        (errors.InvalidTensors, 422),
        (errors.SessionNotFound, 404),
        (errors.StepConflict, 409),
        (errors.StepGone, 410),
        (errors.PreconditionFailed, 412),
        (errors.StoreUnavailable, 503),
        (errors.StorageFull, 507),
        (errors.MemoryExhausted, 503),
        (errors.SessionCorrupt, 500),
        (web_errors.MalformedBody, 400),
        (web_errors.UnsupportedMediaType, 415),
        (web_errors.NotAcceptable, 406),
        (web_errors.BodyTooLarge, 413),
        (web_errors.UnknownKind, 404),
    ],
)
def test_a_class_answers_with_the_status_of_its_nearest_ancestor(
    cls: type[GradstepError], status: int
) -> None:
    assert problems.status_of(cls) == status


@pytest.mark.parametrize("how", RAISED)
def test_every_failure_is_a_problem_document(how: str) -> None:
    response = _fail(how)
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = Problem.model_validate(response.json())
    assert problem.status == response.status_code
    assert problem.type == f"urn:gradstep:problem:{problem.code}"
    assert problem.request_id == response.headers["X-Request-Id"] != ""


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not-found"),
        ("GET", "/v1/schedulers/StepLr", 404, "unknown-kind"),
        ("DELETE", "/v1/schedulers", 405, "method-not-allowed"),
        ("GET", "/v1/schedules/StepLR?step_size=0", 422, "invalid-request"),
        ("POST", "/v1/schedules", 422, "invalid-request"),
        ("POST", "/v1/backprop/linear", 422, "invalid-request"),
    ],
)
def test_the_framework_fails_in_the_same_shape(
    method: str, path: str, status: int, code: str
) -> None:
    response = client().request(method, path)
    problem = Problem.model_validate(response.json())
    assert (response.status_code, problem.status, problem.code) == (status, status, code)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem.request_id == response.headers["X-Request-Id"]


def test_a_method_that_is_not_allowed_says_which_are() -> None:
    response = client().request("DELETE", "/v1/schedulers")
    assert response.headers["Allow"] == "GET, HEAD"
    assert "allowed: GET, HEAD" in response.json()["detail"]


def test_what_is_allowed_counts_all_routes_of_an_address() -> None:
    with running() as service:
        refused = service.request("POST", "/v1/sessions/a")
    assert refused.headers["Allow"] == "DELETE, GET, HEAD, PATCH, PUT"


def test_other_http_errors_keep_their_status_and_sentence() -> None:
    response = _fail("teapot")
    assert response.status_code == 418
    assert response.json()["detail"] == "short and stout"


def test_a_bad_request_of_the_framework_is_a_malformed_body() -> None:
    problem = _fail("bad").json()
    assert (problem["status"], problem["code"]) == (400, "malformed-body")
    assert problem["title"] == web_errors.MalformedBody.title
    assert problem["detail"] == "there was an error parsing the body"


def test_extras_stand_at_the_top_level() -> None:
    assert _fail("position").json()["expected"] == 7


def test_every_wrong_place_is_listed_and_the_first_is_at_the_top() -> None:
    problem = _fail("faults").json()
    assert problem["pointer"] == "/grads/w"
    assert problem["errors"] == [
        {"pointer": "/grads/w", "detail": "has shape (2,)"},
        {"pointer": "/grads/v", "detail": "is unknown"},
    ]


def test_what_may_be_retried_says_when() -> None:
    assert int(_fail("store").headers["Retry-After"]) > 0
    assert int(_fail("memory").headers["Retry-After"]) > 0
    assert "Retry-After" not in _fail("full").headers


def test_a_defect_is_logged_with_its_traceback_and_tells_the_client_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "gradstep_server"):
        response = _fail("defect")
    assert response.status_code == 500
    assert response.json()["code"] == "internal-error"
    assert "secret" not in response.text
    assert "KeyError: 'a secret'" in caplog.text
    assert response.headers["X-Request-Id"] in caplog.text


def test_a_damaged_session_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "gradstep_server"):
        assert _fail("corrupt").status_code == 500
    assert "entry 3 does not match its digest" in caplog.text


def test_a_defect_in_an_answer_that_has_begun_cuts_it_off() -> None:
    with pytest.raises(RuntimeError, match="too late"):
        client(stateless_app(_failing())).get("/broken-stream")


def test_an_error_does_not_repeat_a_huge_body() -> None:
    name = "x" * 100_000
    body = f'{{"scheduler": {{"type": "{name}"}}, "{name}": "{name}"}}'
    response = client().post("/v1/schedules", content=body, headers=JSON)
    assert response.status_code == 422
    assert len(response.content) < 2_000


def test_the_number_of_listed_places_is_bounded() -> None:
    body = {"x": ["no"] * 1_000, "y": [1], "theta": 1, "b": 1}
    response = client().post("/v1/backprop/linear", json=body)
    assert 1 <= len(response.json()["errors"]) <= 20


def test_responses_of_one_status_are_declared_together() -> None:
    declared = problems.responses(errors.StepConflict, errors.PositionMismatch, InvalidRequest)
    assert set(declared) == {409, 422}
    assert "`step-conflict`" in declared[409]["description"]
    assert "`position-mismatch`" in declared[409]["description"]
    assert declared[422]["model"] is Problem


def test_what_is_cut_off_because_the_service_ends_is_to_be_sent_again() -> None:
    sent: list[Message] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError("nothing reads a body")

    async def send(message: Message) -> None:
        sent.append(message)

    async def cut_off() -> None:
        scope = {"type": "http", "method": "PUT", "path": "/", "headers": []}
        served = asyncio.ensure_future(problems.UnhandledErrors(waits)(scope, receive, send))
        await asyncio.sleep(0)
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served

    asyncio.run(cut_off())
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"])["code"] == "draining"
