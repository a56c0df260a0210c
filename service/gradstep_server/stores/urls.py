"""Store URLs: the one place that knows which scheme selects which store."""

from __future__ import annotations

from pathlib import Path

from gradstep_server.sessions.store import Store
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.postgres import address
from gradstep_server.stores.sqlite.store import SqliteStore

_SQLITE = "sqlite:///"


def open_store(url: str, *, shared: bool = False) -> Store:
    """Return the store that `url` selects; the caller awaits its `open`.

    Args:
        url: ``memory://``, ``sqlite:///DIR``, ``sqlite:////absolute/DIR`` or
            ``postgresql://USER@HOST/DATABASE``.
        shared: whether other processes will open the same store.

    Raises:
        ValueError: the URL selects no store, or one that cannot be shared.
    """
    if url == MemoryStore.url:
        if shared:
            raise ValueError("memory:// cannot be shared by several processes; use sqlite:///DIR.")
        return MemoryStore()
    if (directory := directory_of(url)) is not None:
        return SqliteStore(directory, shared=shared)
    if url.startswith(address.SCHEMES):
        return _postgres(url)
    raise ValueError(
        f"{shown(url)!r} is no store; use sqlite:///DIR, sqlite:////absolute/DIR, "
        "postgresql://USER@HOST/DATABASE, memory://."
    )


def directory_of(url: str) -> Path | None:
    """Return the directory of an embedded store, None for every other store."""
    directory = url.removeprefix(_SQLITE)
    return Path(directory) if url.startswith(_SQLITE) and directory else None


def shown(url: str) -> str:
    """Return a store's URL without secrets, whether or not it selects a store."""
    if url.startswith(("sqlite:", "memory:")):
        return url
    try:
        return address.without_secrets(url)
    except ValueError:
        return f"{url.partition(':')[0]}://…"


def _postgres(url: str) -> Store:
    """Return the store in a database; only here is its driver needed."""
    try:
        from gradstep_server.stores.postgres.store import PostgresStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ValueError(
            "PostgreSQL needs a driver: pip install 'gradstep-server[postgres]'."
        ) from error
    return PostgresStore(url)
