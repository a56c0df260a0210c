"""Stores for the commands to work on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import fill
from postgres_server import PostgresServer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where `kept` is."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in a directory with the sessions a, b and c, which tests leave as it is."""
    directory = tmp_path_factory.mktemp("filled")
    fill(f"sqlite:///{directory}", "a", "b", "c")
    return directory


@pytest.fixture
def kept(filled: Path, directory: Path) -> str:
    """A copy of it."""
    shutil.copytree(filled, directory)
    return f"sqlite:///{directory}"


@pytest.fixture(params=["sqlite", "postgres"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each durable kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'any'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.schema()
