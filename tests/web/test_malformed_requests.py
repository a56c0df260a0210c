"""What cannot be read as a request is answered with a problem, like everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from socket_server import How, Served, answer_of, served

from gradstep_server.app import create_app
from gradstep_server.settings import Settings
from gradstep_server.web.problems import Problem


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served[FastAPI]]:
    app = create_app(Settings(store="memory://", access_log=False))
    with served(app, How(lifespan="on"), tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"nothing like it\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET /livez?%b HTTP/1.1\r\nHost: t\r\n\r\n" % (b"a" * 70_000), id="long"),
        pytest.param(b"GET /livez HTTP/1.1\r\nHost: t\r\nX-A: \x00\r\n\r\n", id="control"),
    ],
)
def test_what_is_no_request_is_refused_as_a_problem(target: Served[FastAPI], sent: bytes) -> None:
    with target.connect() as client:
        client.sendall(sent)
        status, headers, body = answer_of(client)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert headers["connection"] == "close"
    problem = Problem.model_validate(json.loads(body))
    assert (problem.status, problem.code) == (400, "malformed-request")
    assert problem.request_id == headers["x-request-id"] != ""
    target.await_rest()
    assert target.ask("GET", "/livez")[0].status == 200
