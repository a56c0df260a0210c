"""What an error of PostgreSQL's, or of the way there, means to a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from gradstep_server.sessions.errors import (
    SessionCorrupt,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)

Damaged = type[SessionCorrupt | StoreUnavailable]

_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_DISK_FULL = "53100"
_DAMAGE = frozenset({"XX001", "XX002"})


@contextmanager
def translated(damaged: Damaged = SessionCorrupt) -> Iterator[None]:
    """Raise an `Unavailable` instead of what the driver raises.

    Args:
        damaged: what to raise when the database reports that its data is damaged.
    """
    try:
        yield
    except asyncpg.InterfaceError as error:
        # Leaving a transaction on a connection that is gone hides what was raised in it.
        hidden = error.__context__
        if isinstance(hidden, asyncio.CancelledError):
            raise hidden from None
        shown = hidden if isinstance(hidden, _FAILURES) else error
        raise _failure(shown, damaged) from error
    except _FAILURES as error:
        raise _failure(error, damaged) from error


def _failure(error: BaseException, damaged: Damaged) -> Unavailable:
    if isinstance(error, TimeoutError):
        return StoreUnavailable("PostgreSQL did not answer in time; send it again.")
    if not isinstance(error, asyncpg.PostgresError):
        return StoreUnavailable(f"PostgreSQL cannot be reached: {error}.")
    state = error.sqlstate or ""
    if state == _DISK_FULL:
        return StorageFull("The disk of PostgreSQL is full; free some space, then send it again.")
    message = error.args[0] if error.args else type(error).__name__  # without the rows it names
    if state in _DAMAGE:
        return damaged(f"The database is damaged: {message}.")
    return StoreUnavailable(f"PostgreSQL could not do it: {message} ({state}).")
