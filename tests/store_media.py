"""What stores keep their logs on, and the end of it: of a machine, of a database server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Protocol

from postgres_server import PostgresServer

from gradstep_server.sessions.store import Store
from gradstep_server.stores.postgres.store import PostgresStore
from gradstep_server.stores.sqlite.store import SqliteStore


class Medium(Protocol):
    """A place for one durable store at a time."""

    async def open(self) -> Store:
        """Return an open store."""
        ...

    async def crash(self) -> Store:
        """End the medium while the store is open; return one that is opened after it."""
        ...

    async def close(self) -> None:
        """Close every store that was opened."""
        ...


class SqliteMedium:
    """A directory on a machine that starts anew, though what it has written is not lost."""

    def __init__(self, directory: Path, *, shared: bool) -> None:
        self._directory = directory
        self._shared = shared
        self._boot = uuid.uuid4().hex
        self._opened: list[SqliteStore] = []

    async def open(self) -> Store:
        store = SqliteStore(self._directory, shared=self._shared, incarnation=self._boot)
        await store.open()
        self._opened.append(store)
        return store

    async def crash(self) -> Store:
        for store in self._opened:
            store._lock.release()  # as the end of its process does
        self._boot = uuid.uuid4().hex
        return await self.open()

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


class PostgresMedium:
    """A database on a server that is killed with all its processes."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._address = server.schema()
        self._opened: list[PostgresStore] = []

    async def open(self) -> Store:
        store = PostgresStore(self._address)
        await store.open()
        self._opened.append(store)
        return store

    async def crash(self) -> Store:
        self._server.kill()
        self._server.start()
        return await self.open()

    async def close(self) -> None:
        for store in self._opened:
            await store.close()
