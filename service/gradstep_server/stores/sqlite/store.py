"""The embedded store: a directory with one SQLite file per session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.store import Body, Entry, Head, Header, Snapshot
from gradstep_server.stores.sqlite.directory import SqliteDirectory
from gradstep_server.stores.sqlite.directory_lock import DirectoryLock
from gradstep_server.stores.threads import Threads

_THREADS = 16
_OPEN_FILES = 64


class SqliteStore:
    """A `Store` in a directory. Every call runs in a thread of the store's own."""

    durability = (
        "every acknowledged write survives the end of the process and the loss of power: it is "
        "synced to disk first"
    )

    def __init__(
        self, directory: Path, *, shared: bool = False, open_files: int = _OPEN_FILES
    ) -> None:
        """Name the directory; `open` creates it.

        Args:
            directory: where the files are.
            shared: whether other processes open the same directory.
            open_files: how many session files are kept open, at three descriptors each.
        """
        self._path = directory.absolute()
        self._shared = shared
        self._lock = DirectoryLock(directory / "lock", shared=shared)
        self._sessions = SqliteDirectory(directory, shared=shared, open_files=open_files)
        self._threads = Threads(_THREADS)

    @property
    def url(self) -> str:
        """The address that selects this store."""
        return f"sqlite:///{self._path}"

    @property
    def shared(self) -> bool:
        """Whether other processes may append to the same logs."""
        return self._shared

    async def open(self) -> None:
        """Take the directory, create what is missing and sweep what crashes left."""
        await self._threads.run(self._open)

    async def close(self) -> None:
        """Close all files and let go of the directory."""
        await self._threads.run(self._sessions.close)
        self._lock.release()
        self._threads.close()

    async def check(self) -> None:
        """Write and read something."""
        await self._threads.run(self._sessions.check)

    async def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session, with its first entry if there is one, atomically."""
        await self._threads.run(self._sessions.create, header, entry, body)

    async def load(self, tenant: str, session_id: str) -> Header | None:
        """Return the header, also that of a deleted session, or None."""
        return await self._threads.run(self._sessions.load, tenant, session_id)

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return the tenant's sessions by id, from behind `after`."""
        return await self._threads.run(self._sessions.list, tenant, after, limit)

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        return await self._threads.run(self._sessions.idle_since, moment, limit)

    async def delete(self, header: Header, seq: int) -> None:
        """Delete the session if its log stands at `seq`."""
        await self._threads.run(self._sessions.delete, header, seq)

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        return await self._threads.run(self._sessions.head, key)

    async def append(self, key: str, entry: Entry, body: Body) -> None:
        """Add `entry` if the log stands right before it."""
        await self._threads.run(self._sessions.append, key, entry, body)

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        return await self._threads.run(self._sessions.find, key, kind, n)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        return await self._threads.run(self._sessions.at, key, seq)

    async def history(self, key: str, kind: str, after: int, limit: int) -> Sequence[Entry]:
        """Return entries of this kind with ``n > after``, by n."""
        return await self._threads.run(self._sessions.history, key, kind, after, limit)

    async def replay(self, key: str, after: int) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after` with their bodies, one at a time."""
        while (found := await self._threads.run(self._sessions.next, key, after)) is not None:
            yield found
            after = found[0].seq

    async def put_snapshot(self, key: str, snapshot: Snapshot, body: Body) -> None:
        """Keep a snapshot, unless there is one of this `seq`."""
        await self._threads.run(self._sessions.put_snapshot, key, snapshot, body)

    async def snapshot(self, key: str) -> tuple[Snapshot, memoryview] | None:
        """Return the newest snapshot with its body."""
        return await self._threads.run(self._sessions.snapshot, key)

    async def trim(self, key: str) -> None:
        """Drop what is older than the second-newest snapshot, a little at a time."""
        while await self._threads.run(self._sessions.trim, key):
            pass

    def _open(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except OSError as error:
            raise StoreUnavailable(
                f"{self._path} cannot be used by user {os.getuid()}: {error.strerror}. Name a "
                "directory that this user can write, or let it write this one."
            ) from error
        try:
            self._sessions.open()
        except BaseException:
            self._sessions.close()
            self._lock.release()
            raise
