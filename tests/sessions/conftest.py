"""What all tests of the sessions run on."""

from __future__ import annotations

import asyncio

import pytest
from lived_session import PieceByPiece, copied, lived

from gradstep_server.sessions import snapshots


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def lived_store() -> PieceByPiece:
    """A store with the session of `lived_session`, which tests leave as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "PIECE", 2)
        return asyncio.run(lived())


@pytest.fixture
def store(lived_store: PieceByPiece) -> PieceByPiece:
    """Return a copy of it, to be damaged."""
    return copied(lived_store)
