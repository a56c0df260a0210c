"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Server, server


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    """A real service in a process of its own, with a store of its own."""
    with server(tmp_path / "data") as started:
        yield started
