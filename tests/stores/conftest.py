"""The stores that the contract is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from postgres_server import PostgresServer

from gradstep_server.sessions.store import Store
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.postgres.store import PostgresStore
from gradstep_server.stores.sqlite.store import SqliteStore


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(params=["memory", "sqlite", "sqlite-shared", "postgres"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Return a maker of stores; those of a durable kind are all of one place."""
    if request.param == "memory":
        return MemoryStore
    if request.param == "postgres":
        database = request.getfixturevalue("postgres").database()
        return lambda: PostgresStore(database)
    shared = request.param == "sqlite-shared"
    return lambda: SqliteStore(tmp_path / "data", shared=shared, open_files=4)


@pytest.fixture
async def store(make_store: Callable[[], Store]) -> AsyncIterator[Store]:
    """Return an open, empty store."""
    opened = make_store()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Return an open, empty SQLite store in ``data``."""
    opened = SqliteStore(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """Return the address of an empty database."""
    return postgres.database()


@pytest.fixture
async def replicas(database: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """Return two open stores on one database."""
    stores = PostgresStore(database), PostgresStore(database)
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()
