"""The stores that the contract is held against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from store_media import Medium, PostgresMedium, SqliteMedium

from gradstep_server.sessions.store import Store
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.postgres.store import PostgresStore
from gradstep_server.stores.sqlite.store import SqliteStore

DURABLE = ["sqlite", "sqlite-shared", "postgres"]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(params=["memory", *DURABLE])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Return a maker of stores; those of a durable kind are all of one place."""
    return _maker(request, tmp_path)


@pytest.fixture(params=DURABLE)
def make_durable(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Return a maker of stores of one place, all of them durable."""
    return _maker(request, tmp_path)


@pytest.fixture
async def store(make_store: Callable[[], Store]) -> AsyncIterator[Store]:
    """Return an open, empty store."""
    opened = make_store()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def writers(make_store: Callable[[], Store]) -> AsyncIterator[list[Store]]:
    """Return open stores of one place: several where several may be, otherwise one."""
    first = make_store()
    stores = [first, *(make_store() for _ in range(3 if first.shared else 0))]
    for opened in stores:
        await opened.open()
    yield stores
    for opened in stores:
        await opened.close()


@pytest.fixture(params=DURABLE)
async def medium(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Medium]:
    """Return what a durable store is on."""
    if request.param == "postgres":
        made: Medium = PostgresMedium(request.getfixturevalue("postgres"))
    else:
        made = SqliteMedium(tmp_path / "data", shared=request.param == "sqlite-shared")
    yield made
    await made.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Return an open, empty SQLite store in ``data``."""
    opened = SqliteStore(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """Return the address of what is an empty database to the store."""
    return postgres.schema()


@pytest.fixture
async def replicas(database: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    """Return two open stores on one database."""
    stores = PostgresStore(database), PostgresStore(database)
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


def _maker(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Store]:
    if request.param == "memory":
        return MemoryStore
    if request.param == "postgres":
        database = request.getfixturevalue("postgres").schema()
        return lambda: PostgresStore(database)
    shared = request.param == "sqlite-shared"
    return lambda: SqliteStore(folder / "data", shared=shared, open_files=4)
