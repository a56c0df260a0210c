"""What must hold before a command is carried out: who wrote last, and what is next."""

from __future__ import annotations

from gradstep_server.sessions import lookups
from gradstep_server.sessions.errors import (
    GenerationMismatch,
    PositionMismatch,
    PreconditionFailed,
    StepConflict,
)
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Header, Store

Version = tuple[int, int]
"""A generation and a sequence: what a session's ETag says."""


def version_of(state: State) -> Version:
    """Return the version that a session is at."""
    return state.generation, state.seq


def fence(state: State, generation: int | None) -> None:
    """Raise unless the client knows the session's generation, or names none.

    Raises:
        GenerationMismatch: it names another one.
    """
    if generation not in (None, state.generation):
        raise GenerationMismatch(
            f"the session is at generation {state.generation}, the request says {generation}; "
            "read the session again before writing",
            generation=state.generation,
        )


def stale(state: State) -> PreconditionFailed:
    """Return what a command for another version gets."""
    version = f"{state.generation}-{state.seq}"
    return PreconditionFailed(
        f'If-Match does not name the current version, "{version}"', etag=version
    )


async def taken(
    store: Store, header: Header, kind: str, n: int, position: int, content: bytes
) -> Entry | None:
    """Return the entry of n if it was taken with this content, None if n is next.

    Raises:
        PositionMismatch: n is neither next nor in the log.
        StepConflict: n was taken with other content.
    """
    if n == position + 1:
        return None
    entry = await lookups.find(store, header.key, kind, n) if n <= position else None
    if entry is None:
        detail = f"the session is at {kind} {position}; send {position + 1}, not {n}"
        raise PositionMismatch(detail, expected=position + 1)
    if entry.digest != content:
        detail = f"{kind} {n} was taken with other content; send {position + 1}"
        raise StepConflict(detail, expected=position + 1)
    return entry
