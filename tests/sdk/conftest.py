"""Both clients, on the real application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from sdk_clients import application, connections
from server_process import Server, server

import gradstep


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[BlockingPortal, Any]]:
    with application() as running:
        yield running


@pytest.fixture(params=["blocking", "asynchronous"])
def client(
    app: tuple[BlockingPortal, Any], request: pytest.FixtureRequest
) -> Iterator[gradstep.Client]:
    portal, transport = app
    with connections(portal, request.param) as connect:
        yield connect(transport)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real service in a process of its own, for all tests of a file."""
    with server(tmp_path_factory.mktemp("service") / "data", store="memory://") as running:
        yield running


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands between this machine and itself."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
