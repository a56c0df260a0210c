"""The store that keeps everything in memory: for tests and throw-away use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from time import time

from gradstep_server.sessions.buffers import SMALL, Buffers, fill
from gradstep_server.sessions.errors import IdTaken, SequenceTaken, SessionCorrupt
from gradstep_server.sessions.offload import COPYING, offload
from gradstep_server.sessions.store import (
    Basis,
    Body,
    Entry,
    Head,
    Header,
    Snapshot,
    SnapshotWriter,
    Usage,
    by_tenant,
)
from gradstep_server.stores.bodies import check_count, check_size


@dataclass(slots=True)
class _Log:
    """One session's log."""

    created_at: float
    entries: list[Entry] = field(default_factory=list)
    bodies: list[memoryview | bytes] = field(default_factory=list)
    snapshots: dict[int, tuple[Snapshot, bytes | bytearray]] = field(default_factory=dict)
    trimmed: int = 0
    """The last entry whose body is gone."""

    def head(self) -> Head:
        if not self.entries:
            return Head(seq=0, step=0, updated_at=self.created_at)
        last = self.entries[-1]
        return Head(last.seq, last.step, last.created_at, last.seal, self.trimmed)

    def append(
        self, entry: Entry, body: memoryview | bytes, after: bytes, basis: Basis | None = None
    ) -> None:
        head = self.head()
        if (entry.seq, after) != (head.seq + 1, head.seal) or not self.keeps(basis):
            raise SequenceTaken(head.seq)
        self.entries.append(entry)
        self.bodies.append(body)

    def keeps(self, basis: Basis | None) -> bool:
        """Return whether nothing of it was trimmed."""
        return basis is None or (
            self.trimmed <= basis.after and basis.snapshot in {None, *self.snapshots}
        )

    def nbytes(self) -> int:
        """Return the bytes of all bodies."""
        snapshots = (len(body) for _, body in self.snapshots.values())
        return sum(map(len, self.bodies)) + sum(snapshots)

    def latest(self, kind: str) -> Iterator[Entry]:
        """Yield the entries of this kind, the last one first."""
        return (entry for entry in reversed(self.entries) if entry.kind == kind)


class _Writer:
    """Gathers the body of a snapshot."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._body = bytearray()

    async def write(self, part: memoryview) -> None:
        """Take the next bytes."""
        self._body += part

    async def commit(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, unless there is one of this `seq`, or it cannot be followed."""
        check_count(len(self._body), snapshot.body_size)
        if self._log.trimmed <= snapshot.base:
            self._log.snapshots.setdefault(snapshot.seq, (snapshot, self._body))


async def _copied(body: Body, size: int, buffers: Buffers) -> memoryview | bytes:
    check_size(body, size)
    if size < SMALL:
        return b"".join(body)
    copied = buffers.take(size)
    await offload(size // (4 * COPYING), fill, copied, body)
    return copied.toreadonly()


_KEPT = 512 * 2**20
"""Bytes of trimmed bodies that the next ones are copied into: to clear new memory takes
longer than to copy."""


class MemoryStore:
    """A `Store` that forgets.

    A method awaits nothing but the copy of a body, before it looks at what there
    is, so each is atomic on its event loop.
    """

    url = "memory://"
    durability = "nothing survives: everything is lost when this process ends"
    shared = False

    def __init__(self) -> None:
        self._headers: dict[tuple[str, str], Header] = {}
        self._logs: dict[str, _Log] = {}
        self._buffers = Buffers(_KEPT)

    async def open(self) -> None:
        """Do nothing: memory is ready."""

    async def close(self) -> None:
        """Forget everything."""
        self._headers.clear()
        self._logs.clear()

    async def check(self) -> None:
        """Do nothing: memory can be written."""

    async def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session, with its first entry if there is one."""
        log = _Log(created_at=header.created_at)
        if entry is not None:
            log.append(entry, await _copied(body, entry.body_size, self._buffers), b"")
        name = (header.tenant, header.id)
        if name in self._headers:
            raise IdTaken(self._headers[name])
        self._headers[name] = header
        self._logs[header.key] = log

    async def load(self, tenant: str, session_id: str) -> Header | None:
        """Return the header, also that of a deleted session, or None."""
        return self._headers.get((tenant, session_id))

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return the tenant's sessions by id, from behind `after`."""
        ids = sorted(h.id for h in self._live() if h.tenant == tenant and h.id > after)
        headers = (self._headers[tenant, session_id] for session_id in ids[:limit])
        return [(header, self._logs[header.key].head()) for header in headers]

    async def usage(self, *, sizes: bool = True) -> Mapping[str, Usage]:
        """Return what the sessions take, by tenant."""
        live = sorted(self._live(), key=lambda header: header.tenant)
        logs = ((header.tenant, self._logs[header.key]) for header in live)
        return by_tenant((tenant, Usage(1, log.nbytes() if sizes else 0)) for tenant, log in logs)

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        heads = ((header, self._logs[header.key].head()) for header in self._live())
        return [(header, head) for header, head in heads if head.updated_at < moment][:limit]

    async def delete(self, header: Header, seq: int | None) -> None:
        """Delete the session if its log stands at `seq`, or wherever it stands."""
        log = self._logs.get(header.key)
        if log is None:
            return
        if seq is not None and len(log.entries) != seq:
            raise SequenceTaken(len(log.entries))
        del self._logs[header.key]
        name = (header.tenant, header.id)
        self._headers[name] = replace(self._headers[name], deleted_at=time())

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        return self._log(key).head()

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,  # noqa: ARG002 - there is nothing that an entry could be synced to
        basis: Basis | None = None,
    ) -> bool:
        """Add `entry` if the log stands right before it."""
        copied = await _copied(body, entry.body_size, self._buffers)
        if key not in self._logs:
            raise SequenceTaken(0)
        self._logs[key].append(entry, copied, after, basis)
        return True

    async def sync(self, key: str) -> None:
        """Do nothing: an entry is as safe as it will ever be."""

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        return next((entry for entry in self._log(key).latest(kind) if entry.n == n), None)

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``."""
        return next((entry for entry in self._log(key).latest(kind) if entry.seq <= upto), None)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        entries = self._log(key).entries
        return entries[seq - 1] if 1 <= seq <= len(entries) else None

    async def history(
        self, key: str, kind: str, after: int, upto: int, limit: int
    ) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n."""
        newest: dict[int, Entry] = {}
        for entry in self._log(key).latest(kind):
            if after < entry.n <= upto:
                newest.setdefault(entry.n, entry)
        return [newest[n] for n in sorted(newest)[:limit]]

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after`, to `upto` or the end, with their bodies."""
        seq = after
        while seq < len((log := self._log(key)).entries) and (upto is None or seq < upto):
            seq += 1
            if seq <= log.trimmed:
                raise SessionCorrupt(f"Entry {seq} cannot be replayed: its body was trimmed.")
            yield log.entries[seq - 1], memoryview(log.bodies[seq - 1])

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        """Write a snapshot within the block; without a `commit` nothing is kept."""
        yield _Writer(self._log(key))

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        snapshots = self._log(key).snapshots
        return [(seq, snapshots[seq][0].base) for seq in sorted(snapshots)]

    async def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        snapshots = self._log(key).snapshots
        if seq not in snapshots:
            return None
        snapshot, body = snapshots[seq]
        return snapshot, memoryview(body).toreadonly()

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        """Drop the snapshots before `oldest`, and the bodies that no other is followed by."""
        log = self._log(key)
        newest = next((entry.seq for entry in log.latest("rewind")), 0)
        if oldest not in log.snapshots or rewound not in {None, newest}:
            return
        log.snapshots = {seq: kept for seq, kept in log.snapshots.items() if seq >= oldest}
        log.trimmed = max(log.trimmed, min(kept.base for kept, _ in log.snapshots.values()))
        log.bodies[: log.trimmed] = [b""] * log.trimmed

    def _log(self, key: str) -> _Log:
        """Return the log; one that is deleted or was never created reads as empty."""
        return self._logs.get(key, _Log(created_at=0.0))

    def _live(self) -> Sequence[Header]:
        return [header for header in self._headers.values() if header.deleted_at is None]
