"""The application starts whole, and leaves nothing open however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from gradstep_server import app as root
from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.service import Sessions
from gradstep_server.settings import Settings
from gradstep_server.stores.memory import MemoryStore


class WatchedStore(MemoryStore):
    """A store that knows whether it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> WatchedStore:
    """The store that the application will use."""
    store = WatchedStore()
    monkeypatch.setattr(root, "make_store", lambda _: store)
    return store


def run(app: FastAPI, meanwhile: Callable[[], Any] = lambda: None) -> None:
    """Start the application, wait a moment, and end it."""

    async def whole_life() -> None:
        async with app.router.lifespan_context(app):
            meanwhile()
            await asyncio.sleep(0.05)

    asyncio.run(whole_life())


def settings(**more: Any) -> Settings:
    return Settings(store="memory://", **more)


def test_the_store_is_open_while_the_application_runs(watched: WatchedStore) -> None:
    seen = []
    run(root.create_app(settings()), lambda: seen.append(watched.is_open))
    assert seen == [True]
    assert not watched.is_open


def test_the_store_is_closed_when_the_loops_cannot_be_compiled(
    watched: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(root, "warm_up", fail)
    with pytest.raises(RuntimeError, match="no compiler"):
        run(root.create_app(settings()))
    assert not watched.is_open


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("a defect")])
def test_a_failed_search_for_idle_sessions_is_logged_and_not_the_last(
    watched: WatchedStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    searches = []

    async def expire(_: Sessions, seconds: float) -> int:
        searches.append(seconds)
        raise error

    monkeypatch.setattr(Sessions, "expire", expire)
    run(root.create_app(settings(session_ttl=0.01)))
    assert len(searches) > 1
    assert "idle sessions could not be deleted" in caplog.text
    assert not watched.is_open
