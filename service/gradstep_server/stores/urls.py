"""Store URLs: the one place that knows which scheme selects which store."""

from __future__ import annotations

from pathlib import Path

from gradstep_server.sessions.store import Store
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.sqlite.store import SqliteStore

_SQLITE = "sqlite:///"


def open_store(url: str, *, shared: bool = False) -> Store:
    """Return the store that `url` selects; the caller awaits its `open`.

    Args:
        url: ``memory://``, ``sqlite:///DIR`` or ``sqlite:////absolute/DIR``.
        shared: whether other processes will open the same store.

    Raises:
        ValueError: the URL selects no store, or one that cannot be shared.
    """
    if url == MemoryStore.url:
        if shared:
            raise ValueError("memory:// cannot be shared by several processes; use sqlite:///DIR.")
        return MemoryStore()
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return SqliteStore(Path(url.removeprefix(_SQLITE)), shared=shared)
    raise ValueError(f"{url!r} is no store; use sqlite:///DIR, sqlite:////absolute/DIR, memory://.")
