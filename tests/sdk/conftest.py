"""Both clients, on the real application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from sdk_clients import application, connections

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
