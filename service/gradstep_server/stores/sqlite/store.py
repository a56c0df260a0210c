"""The embedded store: a directory with one SQLite file per session."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.store import (
    Basis,
    Body,
    Entry,
    Head,
    Header,
    Snapshot,
    SnapshotWriter,
    Usage,
)
from gradstep_server.stores.bodies import Chunks, check_count
from gradstep_server.stores.sqlite import bodies, unsynced
from gradstep_server.stores.sqlite.directory import SqliteDirectory
from gradstep_server.stores.sqlite.directory_lock import DirectoryLock
from gradstep_server.stores.sqlite.snapshots import SnapshotDraft
from gradstep_server.stores.threads import Threads

_THREADS = 16
_OPEN_FILES = 64


class _SnapshotWriter:
    """Cuts the body of a snapshot into rows; steps may come between any two of them."""

    def __init__(self, threads: Threads, draft: SnapshotDraft | None) -> None:
        self._threads = threads
        self._draft = draft
        self._chunks = Chunks(bodies.CHUNK)

    async def write(self, part: memoryview) -> None:
        """Take the next bytes; whole rows are written at once."""
        for chunk in self._chunks.cut(part):
            if self._draft is not None:
                await self._threads.run(self._draft.add, chunk)

    async def commit(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, unless there is one of its `seq`."""
        check_count(self._chunks.taken, snapshot.body_size)
        if self._draft is not None:
            await self._threads.run(self._draft.commit, snapshot, self._chunks.rest)


class SqliteStore:
    """A `Store` in a directory. Every call runs in a thread of the store's own."""

    durability = (
        "every acknowledged write survives the end of the process and the loss of power: it is "
        "synced to disk first"
    )

    def __init__(
        self,
        directory: Path,
        *,
        shared: bool = False,
        open_files: int = _OPEN_FILES,
        incarnation: str | None = None,
    ) -> None:
        """Name the directory; `open` creates it.

        Args:
            directory: where the files are.
            shared: whether other processes open the same directory.
            open_files: how many session files are kept open, at three descriptors each.
            incarnation: the name of the medium's incarnation, by default this boot of the
                machine: what was written in it and not synced is there as long as it lasts.
        """
        self._path = directory.absolute()
        self._shared = shared
        self._lock = DirectoryLock(directory / "lock", shared=shared)
        self._sessions = SqliteDirectory(
            directory,
            shared=shared,
            open_files=open_files,
            incarnation=incarnation or unsynced.this_incarnation(shared=shared),
        )
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

    async def usage(self, *, sizes: bool = True) -> Mapping[str, Usage]:
        """Return what the sessions' files take, by tenant."""
        return await self._threads.run(self._sessions.usage, sizes=sizes)

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        return await self._threads.run(self._sessions.idle_since, moment, limit)

    async def delete(self, header: Header, seq: int | None) -> None:
        """Delete the session if its log stands at `seq`, or wherever it stands."""
        await self._threads.run(self._sessions.delete, header, seq)

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        return await self._threads.run(self._sessions.head, key)

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        """Add `entry` if the log stands right before it; return whether it is synced."""
        return await self._threads.run(
            self._sessions.append, key, entry, body, after, synced=synced, basis=basis
        )

    async def sync(self, key: str) -> None:
        """Put on disk what is not there yet."""
        await self._threads.run(self._sessions.sync, key)

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        return await self._threads.run(self._sessions.find, key, kind, n)

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``."""
        return await self._threads.run(self._sessions.newest, key, kind, upto)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        return await self._threads.run(self._sessions.at, key, seq)

    async def history(
        self, key: str, kind: str, after: int, upto: int, limit: int
    ) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n."""
        return await self._threads.run(self._sessions.history, key, kind, after, upto, limit)

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after`, to `upto` or the end, with their bodies."""
        while upto is None or after < upto:
            found = await self._threads.run(self._sessions.next, key, after)
            if found is None:
                break
            yield found
            after = found[0].seq

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        """Write a snapshot within the block; without a `commit` nothing is kept."""
        stack = ExitStack()
        try:
            draft = await self._threads.run(stack.enter_context, self._sessions.snapshot_draft(key))
            yield _SnapshotWriter(self._threads, draft)
        finally:
            await self._threads.run(stack.close)

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        return await self._threads.run(self._sessions.snapshots, key)

    async def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        return await self._threads.run(self._sessions.snapshot, key, seq)

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        """Drop what is older than the snapshot `oldest`, a little at a time."""
        while await self._threads.run(self._sessions.trim, key, oldest, rewound):
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
