"""Keys: where a client finds its own, that it sends it, and that nobody else sees it."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal
from key_files import Callers
from scripted_server import ScriptedServer, received
from sdk_clients import ADAMW, Connect, application, connections

import gradstep
from gradstep._senders import VARIABLE, authorization

KEY = "gs_" + 49 * "k"


@pytest.fixture(autouse=True)
def _no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def app(who: Callers) -> Iterator[tuple[BlockingPortal, httpx.ASGITransport]]:
    with application(keys_file=who.file) as running:
        yield running


@pytest.fixture(params=["blocking", "asynchronous"])
def connect(
    app: tuple[BlockingPortal, httpx.ASGITransport], request: pytest.FixtureRequest
) -> Iterator[Connect]:
    with connections(app[0], request.param) as connecting:
        yield lambda **options: connecting(app[1], max_retries=0, **options)


def create(client: gradstep.Client) -> gradstep.Session:
    return client.sessions.create(optimizer=ADAMW, params={"w": np.ones(2)})


def test_a_key_opens_the_sessions_of_its_tenant(connect: Connect, who: Callers) -> None:
    session = create(connect(api_key=who.keys["write"]))
    assert session.step({"w": np.ones(2)})["w"].shape == (2,)
    assert connect(api_key=who.keys["read"]).sessions.resume(session.id).position == 1
    with pytest.raises(gradstep.SessionNotFound):
        connect(api_key=who.other).sessions.resume(session.id)


def test_the_environment_holds_it_too(
    connect: Connect, who: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"{who.keys['write']}\n")
    assert create(connect()).position == 0
    with pytest.raises(gradstep.Unauthenticated):
        create(connect(api_key=who.revoked))


@pytest.mark.parametrize("key", ["none", "wrong", "revoked"])
def test_without_one_in_force_it_is_told(connect: Connect, who: Callers, key: str) -> None:
    sent = {"wrong": who.wrong, "revoked": who.revoked}.get(key)
    with pytest.raises(gradstep.Unauthenticated) as caught:
        create(connect(api_key=sent))
    assert (caught.value.status, caught.value.code) == (401, "unauthenticated")


def test_a_role_that_is_too_small_is_told_with_the_one_needed(
    connect: Connect, who: Callers
) -> None:
    with pytest.raises(gradstep.Forbidden) as caught:
        create(connect(api_key=who.keys["read"]))
    assert (caught.value.status, caught.value.role) == (403, "write")
    session = create(connect(api_key=who.keys["write"]))
    with pytest.raises(gradstep.Forbidden) as caught:
        session.delete()
    assert caught.value.role == "admin"


def test_a_problem_that_names_no_role_has_none() -> None:
    assert gradstep.Forbidden(gradstep.Problem(403, "d", extra={"role": 3})).role is None


@pytest.mark.parametrize("key", ["gs_ä", "two words", "a\nb", "a\r\nX-Injected: 1"])
@pytest.mark.parametrize("where", ["argument", "environment"])
def test_what_can_be_no_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str, where: str
) -> None:
    if where == "environment":
        monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ValueError, match="is no key") as caught:
        gradstep.Client("http://127.0.0.1:1", api_key=key if where == "argument" else None)
    assert key not in str(caught.value)


def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert authorization("") == authorization(None) == {}
    monkeypatch.setenv(VARIABLE, "")
    assert authorization(None) == {}


def test_it_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in what was raised, nor in a log of everything, nor in what is printed of a client."""

    def hang_up(connection: Any) -> None:
        assert f"Authorization: Bearer {KEY}" in received(connection)[0].split("\r\n")

    with (
        caplog.at_level(logging.DEBUG),
        ScriptedServer(hang_up) as server,
        gradstep.Client(
            f"http://127.0.0.1:{server.port}", api_key=KEY, max_retries=0, timeout=5
        ) as client,
    ):
        with pytest.raises(gradstep.ConnectionFailed) as caught:
            client.schedulers()
        error = caught.value
        shown = [
            "".join(traceback.format_exception(error)),
            repr(error),
            repr(vars(error)),
            repr(client),
            repr(vars(client)),
            caplog.text,
        ]
    assert KEY not in "".join(shown)
    assert KEY.encode() not in pickle.dumps(error)


def test_it_is_not_sent_to_where_a_server_points() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"Location": "http://elsewhere.example/"})

    transport = httpx.MockTransport(answer)
    with (
        gradstep.Client("http://here.example", api_key=KEY, transport=transport) as client,
        pytest.raises(gradstep.GradstepError),
    ):
        client.schedulers()
    assert asked == ["here.example"]
