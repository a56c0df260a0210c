"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_table import Table
from key_files import Callers, callers
from postgres_server import PostgresServer
from server_process import Server, server


@pytest.fixture(scope="session")
def conformance() -> Iterator[Table]:
    """What is found of every kind; printed, and written where CONFORMANCE_PAGE says."""
    table = Table()
    yield table
    print("\n" + table.page())
    if page := os.environ.get("CONFORMANCE_PAGE"):
        Path(page).write_text(table.page())


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run."""
    started = PostgresServer()
    try:
        started.start()
        yield started
    finally:
        started.close()


@pytest.fixture
def postgres(postgres_process: PostgresServer) -> PostgresServer:
    """The PostgreSQL server, running, whatever the test before has done to it."""
    postgres_process.start()
    return postgres_process


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    """A real service in a process of its own, with a store of its own."""
    with server(tmp_path / "data") as started:
        yield started


@pytest.fixture(scope="module")
def who(tmp_path_factory: pytest.TempPathFactory) -> Callers:
    """Everyone who may come, with a file of keys."""
    return callers(tmp_path_factory.mktemp("keys") / "keys.jsonl")
