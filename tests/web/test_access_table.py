"""Who may do what, at every route there is: a row for each, and none without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from access_rows import ALL, CONFIG, NUMBERS, OF_A_SESSION, ROWS, Operation, send, session
from key_files import Callers, bearer
from session_app import Service, running

from gradstep_server.keys import Role

KEYED = [operation for operation in ALL if ROWS.get(operation) in {"read", "write", "admin"}]
PUBLIC = [operation for operation in ALL if ROWS.get(operation) == "public"]
STATELESS = [operation for operation in ALL if ROWS.get(operation) == "stateless"]
PAGES = ("", "/params", "/state", "/history")
"""All that there is to see of a session."""


@pytest.fixture(scope="module")
def service(who: Callers) -> Iterator[Service]:
    with running(keys_file=who.file) as started:
        yield started


@pytest.fixture(scope="module")
def closed(who: Callers) -> Iterator[Service]:
    """A service whose curves need a key too."""
    with running(keys_file=who.file, public_curves=False) as started:
        yield started


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Require a refusal, with its challenge; return the problem."""
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    problem: dict[str, Any] = answer.json()
    return problem


def let_in(answer: httpx.Response) -> bool:
    """Say whether a request came past everything that asks for keys, and found what it is for."""
    assert answer.status_code < 500, answer.text
    return answer.status_code not in {401, 403, 404}


@pytest.mark.parametrize("operation", ALL, ids=" ".join)
def test_every_route_is_in_the_table(operation: Operation) -> None:
    assert operation in ROWS, "say in ROWS who may use it"


def test_the_table_has_no_route_that_there_is_not() -> None:
    assert sorted(ROWS) == ALL


@pytest.mark.parametrize("operation", KEYED, ids=" ".join)
@pytest.mark.parametrize("caller", ["none", "wrong", "revoked"])
def test_without_a_key_in_force_nobody_is_let_in(
    service: Service, who: Callers, operation: Operation, caller: str
) -> None:
    key = {"none": None, "wrong": who.wrong, "revoked": who.revoked}[caller]
    name = session(service, who)
    before = service.get(f"/v1/sessions/{name}", headers=bearer(who.keys["read"])).content
    problem = refused(send(service, operation, name, key), 401, "unauthenticated")
    absent = refused(send(service, operation, "absent", key), 401, "unauthenticated")
    assert problem["detail"] == absent["detail"]
    assert service.get(f"/v1/sessions/{name}", headers=bearer(who.keys["read"])).content == before


@pytest.mark.parametrize("operation", KEYED, ids=" ".join)
@pytest.mark.parametrize("role", ["read", "write", "admin"])
def test_a_key_does_what_its_role_allows_and_no_more(
    service: Service, who: Callers, operation: Operation, role: Role
) -> None:
    needed = ROWS[operation]
    answer = send(service, operation, session(service, who), who.keys[role])
    order = ["read", "write", "admin"]
    if order.index(role) >= order.index(needed):
        assert let_in(answer)
    else:
        problem = refused(answer, 403, "forbidden")
        assert problem["role"] == needed
        assert needed in problem["detail"]
        assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("operation", OF_A_SESSION, ids=" ".join)
def test_a_session_of_another_tenant_is_as_one_that_there_is_not(
    service: Service, who: Callers, operation: Operation
) -> None:
    """The same status, headers and body, whichever of our sessions the other one names."""
    ours, absent = session(service, who), f"t{next(NUMBERS)}"
    mine = bearer(who.keys["read"])
    before = [service.get(f"/v1/sessions/{ours}{page}", headers=mine).content for page in PAGES]
    answers = [send(service, operation, name, who.other) for name in (ours, absent)]
    created = operation == ("PUT", "/v1/sessions/{id}")
    for answer in answers:
        assert answer.status_code == (201 if created else 404)
        assert created or answer.json()["code"] == "session-not-found"
    assert told(answers[0], ours) == told(answers[1], absent)
    after = [service.get(f"/v1/sessions/{ours}{page}", headers=mine).content for page in PAGES]
    assert after == before


def told(answer: httpx.Response, name: str) -> tuple[Any, ...]:
    """Return all that an answer tells, but for the id that was asked for, and the moment."""
    request_id = answer.headers["X-Request-Id"]
    body = {**answer.json(), "created_at": None, "updated_at": None}
    headers = {**answer.headers, "content-length": None}  # which counts the letters of the id
    shown = [str(part).replace(request_id, "R").replace(name, "ID") for part in (body, headers)]
    return answer.status_code, *shown


@pytest.mark.parametrize("operation", [*PUBLIC, *STATELESS], ids=" ".join)
@pytest.mark.parametrize("caller", ["none", "wrong", "revoked", "read"])
def test_what_is_public_asks_nobody(
    service: Service, who: Callers, operation: Operation, caller: str
) -> None:
    key = {"wrong": who.wrong, "revoked": who.revoked, "read": who.keys["read"]}.get(caller)
    assert let_in(send(service, operation, "", key))


@pytest.mark.parametrize("operation", STATELESS, ids=" ".join)
def test_curves_that_are_not_public_need_any_key(
    closed: Service, who: Callers, operation: Operation
) -> None:
    for key in (None, who.wrong, who.revoked):
        refused(send(closed, operation, "", key), 401, "unauthenticated")
    for key in (*who.keys.values(), who.other):
        assert let_in(send(closed, operation, "", key))


@pytest.mark.parametrize("operation", PUBLIC, ids=" ".join)
def test_what_is_public_stays_so_where_curves_are_not(
    closed: Service, operation: Operation
) -> None:
    assert let_in(send(closed, operation, "", None))


@pytest.mark.parametrize("operation", ALL, ids=" ".join)
def test_the_document_says_what_the_table_says(service: Service, operation: Operation) -> None:
    method, template = operation
    paths = service.app.openapi()["paths"]
    if template not in paths:
        assert ROWS[operation] == "public"
        return
    declared = paths[template][method.lower()]
    security: dict[str, list[Any]] = {"public": [], "stateless": [{}, {"bearer": []}]}
    assert declared["security"] == security.get(ROWS[operation], [{"bearer": []}])
    assert ("401" in declared["responses"]) == (ROWS[operation] != "public")
    assert ("403" in declared["responses"]) == (ROWS[operation] in {"write", "admin"})


def test_lists_and_new_sessions_are_the_tenants_own(service: Service, who: Callers) -> None:
    ours, theirs = bearer(who.keys["admin"]), bearer(who.other)
    name = session(service, who)
    made = service.post("/v1/sessions", json=CONFIG, headers=theirs).json()["id"]
    lists = [service.get("/v1/sessions?limit=1000", headers=headers) for headers in (ours, theirs)]
    listed = [{shown["id"] for shown in answer.json()["sessions"]} for answer in lists]
    assert name in listed[0] - listed[1]
    assert made in listed[1] - listed[0]


def test_both_tenants_may_have_a_session_of_one_name(service: Service, who: Callers) -> None:
    name = session(service, who)
    path, theirs = f"/v1/sessions/{name}", bearer(who.other)
    assert service.put(path, json=CONFIG, headers=theirs).status_code == 201
    assert service.get(path, headers=theirs).json()["step"] == 0
    assert service.delete(path, headers=theirs).status_code == 204
    ours = service.get(path, headers=bearer(who.keys["read"]))
    assert (ours.status_code, ours.json()["step"]) == (200, 1)
