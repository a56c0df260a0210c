"""How a key is sent, and what is said to who has none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from key_files import Callers, bearer, callers
from session_app import Service, running

from gradstep_server.keys import KeyFile, changes, keyring

LIST = "/v1/sessions"


@pytest.fixture(scope="module")
def service(who: Callers) -> Iterator[Service]:
    with running(keys_file=who.file) as started:
        yield started


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {} "])
def test_a_key_is_sent_as_a_bearer(service: Service, who: Callers, form: str) -> None:
    headers = {"Authorization": form.format(who.keys["read"])}
    assert service.get(LIST, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("{}", "send a key once"),
        ("Basic {}", "send a key once"),
        ("Bearer", "is no key"),
        ("Bearer {}x", "not the whole of one"),
        ("Bearer x{}", "not the whole of one"),
        ("Bearer {}, Bearer {}", "not the whole of one"),
        ("Bearer gs_é", "is no key"),
    ],
)
def test_what_is_no_key_is_refused_with_a_reason(
    service: Service, who: Callers, form: str, says: str
) -> None:
    value = form.replace("{}", who.keys["admin"]).encode("latin-1")
    answer = service.get(LIST, headers={"Authorization": value})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert says in answer.json()["detail"]


def test_two_keys_are_as_none(service: Service, who: Callers) -> None:
    twice = [("Authorization", f"Bearer {key}") for key in who.keys.values()]
    answer = service.get(LIST, headers=twice)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_key_in_the_query_is_no_key(service: Service, who: Callers) -> None:
    """Addresses are logged everywhere."""
    assert service.get(f"{LIST}?api_key={who.keys['admin']}").status_code == 401


def test_wrong_and_revoked_are_told_alike(service: Service, who: Callers) -> None:
    told = [service.get(LIST, headers=bearer(key)).json() for key in (who.wrong, who.revoked)]
    assert told[0]["detail"] == told[1]["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1//sessions"),
        ("GET", "/v1/schedules/../sessions"),
        ("GET", "/docs/../v1/sessions"),
        ("GET", "/V1/sessions"),
        ("GET", "/livez/"),
        ("TRACE", "/v1/sessions"),
        ("OPTIONS", "/v1/sessions"),
        ("HEAD", "/v1/sessions"),
        ("POST", "/metrics"),
    ],
)
def test_what_is_not_known_to_be_public_needs_a_key_or_is_not_there(
    service: Service, method: str, path: str
) -> None:
    assert service.request(method, path).status_code in {401, 404}


def test_who_has_a_key_is_told_that_there_is_nothing(service: Service, who: Callers) -> None:
    answer = service.get("/v1/nothing", headers=bearer(who.keys["read"]))
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_no_byte_of_a_body_is_read_for_who_has_no_key(service: Service) -> None:
    read = []

    async def body() -> Any:
        read.append(1)
        yield b"{"

    answer = service.post(LIST, content=body(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 401
    huge = service.post(LIST, headers={"Content-Length": str(1 << 60)})
    assert huge.status_code == 401


def test_a_session_made_in_the_open_is_the_default_tenants(who: Callers) -> None:
    with running() as opened:
        path = opened.session("a")
        assert opened.get(path).status_code == 200
        assert opened.get(path, headers=bearer(who.wrong)).status_code == 200


def test_keys_come_and_go_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_INTERVAL", 0.0)
    who = callers(tmp_path / "keys.jsonl")
    with running(keys_file=who.file) as service:
        sent = changes.create(KeyFile(who.file), "new", "read", "ours")
        assert service.get(LIST, headers=bearer(sent)).status_code == 200
        changes.revoke(KeyFile(who.file), "new")
        assert service.get(LIST, headers=bearer(sent)).status_code == 401


def test_no_key_is_logged_or_told(
    service: Service, who: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [
            service.request(method, path, headers=bearer(key))
            for key in (*who.keys.values(), who.wrong, who.revoked, f"{who.wrong}x")
            for method, path in (("GET", LIST), ("DELETE", f"{LIST}/a"), ("GET", "/v1/nothing"))
        ]
    said = caplog.text + "".join(str(dict(answer.headers)) + answer.text for answer in answers)
    for key in (*who.keys.values(), who.wrong, who.revoked):
        assert key[3:] not in said
