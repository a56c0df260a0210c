"""Bad input changes nothing, and is refused by a problem that names it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bad_branch_requests import BRANCHES
from bad_requests import (
    ASKED,
    BINARY,
    EMPTY,
    EPOCHS,
    GRADIENTS,
    MAX_BODY,
    NOT_JSON,
    NUMBERS,
    PATH,
    QUERIES,
    UNUSABLE,
    Bad,
)
from bad_session_requests import SESSIONS
from fastapi.routing import APIRoute
from session_app import ADAMW, Service, running

from gradstep_server.web.problems import Problem

ROWS = [
    *GRADIENTS,
    *ASKED,
    *NOT_JSON,
    *BINARY,
    *UNUSABLE,
    *QUERIES,
    *NUMBERS,
    *SESSIONS,
    *BRANCHES,
]
OPERATIONS = [bad for bad in ROWS if bad.code not in {"not-found", "method-not-allowed"}]
"""Rows for an address and method that there are; the others belong to no operation."""

COSTLY = 1.0
"""Seconds of the processor that no refusal may take."""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running(max_body_size=MAX_BODY) as started:
        params = {"w": [1.0, 2.0], "m": [[1.0, 2.0], [3.0, 4.0]]}
        started.session("s", optimizer=ADAMW, params=params)
        started.put(f"{PATH}/steps/1", json={"grads": {"w": [1, 1], "m": [[1, 1], [1, 1]]}})
        started.session("epochs", schedule_on="epoch", params={"w": [1.0]})
        started.session("empty", param_groups=[{"match": ["*.bias"], "lr": 1}])
        yield started


def _everything(service: Service) -> tuple[Any, ...]:
    """Return all that a client can see of all sessions."""
    sessions = [service.get(path).content for path in (PATH, EPOCHS, EMPTY)]
    state = service.get(f"{PATH}/state").content
    return sessions, state, service.get("/v1/sessions").content


@pytest.mark.parametrize("bad", ROWS, ids=lambda bad: bad.name)
def test_it_is_refused_by_name_and_changes_nothing(service: Service, bad: Bad) -> None:
    before = _everything(service)
    began = time.process_time()
    response = service.request(bad.method, bad.path, content=bad.body, headers=bad.headers)
    took = time.process_time() - began
    problem = Problem.model_validate(response.json())
    assert (response.status_code, problem.status, problem.code) == (bad.status,) * 2 + (bad.code,)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert bad.says in f"{problem.pointer} {problem.detail}"
    assert problem.request_id == response.headers["X-Request-Id"] != ""
    assert _everything(service) == before
    assert took < COSTLY


@pytest.mark.parametrize("bad", OPERATIONS, ids=lambda bad: bad.name)
def test_its_refusal_is_declared(service: Service, bad: Bad) -> None:
    declared = _operation(service, bad)["responses"][str(bad.status)]
    assert "application/problem+json" in declared["content"]
    assert f"`{bad.code}`" in declared["description"]


STYLE = re.compile(r"""(?:[a-z0-9"'/]|[A-Z][a-z]+-[A-Z]).*[^.]""", re.DOTALL)
"""A clause: it begins in lowercase, or with a pointer, a quotation or a header's name, and
ends without a full stop."""


@pytest.mark.parametrize("bad", ROWS, ids=lambda bad: bad.name)
def test_its_refusal_is_a_clause(service: Service, bad: Bad) -> None:
    response = service.request(bad.method, bad.path, content=bad.body, headers=bad.headers)
    problem = Problem.model_validate(response.json())
    details = [problem.detail]
    if bad.code != "invalid-config":  # some of those repeat pydantic's own sentences
        details += [wrong.detail for wrong in problem.errors or ()]
    assert [detail for detail in details if not STYLE.fullmatch(detail)] == []


def _operation(service: Service, bad: Bad) -> dict[str, Any]:
    path = bad.path.partition("?")[0]
    [operations] = [
        operations
        for template, operations in service.app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
    ]
    found: dict[str, Any] = operations[bad.method.lower()]
    return found


def test_the_rows_differ() -> None:
    assert len(ROWS) >= 60
    assert len({bad.name for bad in ROWS}) == len(ROWS)


def _api_routes(routes: Any) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from _api_routes(route.original_router.routes)


def test_every_route_is_documented_with_its_failures(service: Service) -> None:
    paths = service.app.openapi()["paths"]
    routes = [route for route in _api_routes(service.app.routes) if "/v1/" in route.path]
    assert len(routes) >= 20
    ids = set()
    for route in routes:
        for method in route.methods or ():
            operation = paths[route.path][method.lower()]
            ids.add(operation["operationId"])
            assert re.fullmatch("[a-z]+([A-Z][a-z]+)+", operation["operationId"])
            assert operation["summary"].endswith(".")
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
                    assert "`" in response["description"], "the codes are named"
    assert len(ids) == len(routes)


def test_every_session_operation_can_fail(service: Service) -> None:
    for path, operations in service.app.openapi()["paths"].items():
        if path.startswith("/v1/sessions"):
            for operation in operations.values():
                assert any(status >= "400" for status in operation["responses"])
