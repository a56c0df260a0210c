"""Opening the store that the settings select, or saying in one sentence why not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gradstep_server.app import make_store
from gradstep_server.ending import CannotRun
from gradstep_server.errors import GradstepError
from gradstep_server.sessions.store import Store
from gradstep_server.settings import Settings


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Store]:
    """Open the store for the block: alone, even where workers are to share it.

    Raises:
        CannotRun: it cannot be opened.
    """
    try:
        store = make_store(settings.model_copy(update={"workers": 1}))
    except ValueError as error:
        raise CannotRun(f"--store: {error}", exit_code=2) from error
    try:
        await store.open()
    except GradstepError as error:
        raise CannotRun(error.detail) from error
    except OSError as error:
        raise CannotRun(f"cannot open {store.url}: {error.strerror or error}") from error
    try:
        yield store
    finally:
        await store.close()
