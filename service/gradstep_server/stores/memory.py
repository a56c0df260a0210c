"""The store that keeps everything in memory: for tests and throw-away use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from time import time

from gradstep_server.sessions.errors import IdTaken, SequenceTaken, SessionCorrupt
from gradstep_server.sessions.store import Body, Entry, Head, Header, Snapshot
from gradstep_server.stores.bodies import check_size


@dataclass(slots=True)
class _Log:
    """One session's log."""

    created_at: float
    entries: list[Entry] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    snapshots: dict[int, tuple[Snapshot, bytes]] = field(default_factory=dict)
    trimmed: int = 0
    """The last entry whose body is gone."""

    def head(self) -> Head:
        if not self.entries:
            return Head(seq=0, step=0, updated_at=self.created_at)
        last = self.entries[-1]
        return Head(seq=last.seq, step=last.step, updated_at=last.created_at)

    def append(self, entry: Entry, body: bytes) -> None:
        if entry.seq != len(self.entries) + 1:
            raise SequenceTaken(len(self.entries))
        self.entries.append(entry)
        self.bodies.append(body)


def _copied(body: Body, size: int) -> bytes:
    check_size(body, size)
    return b"".join(body)


class MemoryStore:
    """A `Store` that forgets. No method awaits, so each is atomic on its event loop."""

    url = "memory://"
    durability = "nothing survives: everything is lost when this process ends"
    shared = False

    def __init__(self) -> None:
        self._headers: dict[tuple[str, str], Header] = {}
        self._logs: dict[str, _Log] = {}

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
        name = (header.tenant, header.id)
        if name in self._headers:
            raise IdTaken(self._headers[name])
        log = _Log(created_at=header.created_at)
        if entry is not None:
            log.append(entry, _copied(body, entry.body_size))
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

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`."""
        heads = ((header, self._logs[header.key].head()) for header in self._live())
        return [(header, head) for header, head in heads if head.updated_at < moment][:limit]

    async def delete(self, header: Header, seq: int) -> None:
        """Delete the session if its log stands at `seq`."""
        log = self._logs.get(header.key)
        if log is None:
            return
        if len(log.entries) != seq:
            raise SequenceTaken(len(log.entries))
        del self._logs[header.key]
        name = (header.tenant, header.id)
        self._headers[name] = replace(self._headers[name], deleted_at=time())

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        return self._log(key).head()

    async def append(self, key: str, entry: Entry, body: Body) -> None:
        """Add `entry` if the log stands right before it."""
        if key not in self._logs:
            raise SequenceTaken(0)
        self._logs[key].append(entry, _copied(body, entry.body_size))

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number."""
        entries = reversed(self._log(key).entries)
        return next((e for e in entries if e.kind == kind and e.n == n), None)

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log."""
        entries = self._log(key).entries
        return entries[seq - 1] if 1 <= seq <= len(entries) else None

    async def history(self, key: str, kind: str, after: int, limit: int) -> Sequence[Entry]:
        """Return entries of this kind with ``n > after``, by n."""
        entries = (e for e in self._log(key).entries if e.kind == kind and e.n > after)
        return sorted(entries, key=lambda entry: (entry.n, entry.seq))[:limit]

    async def replay(self, key: str, after: int) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after` with their bodies, in order."""
        seq = after
        while seq < len((log := self._log(key)).entries):
            seq += 1
            if seq <= log.trimmed:
                raise SessionCorrupt(f"Entry {seq} cannot be replayed: its body was trimmed.")
            yield log.entries[seq - 1], memoryview(log.bodies[seq - 1])

    async def put_snapshot(self, key: str, snapshot: Snapshot, body: Body) -> None:
        """Keep a snapshot, unless there is one of this `seq`."""
        kept = _copied(body, snapshot.body_size)
        self._log(key).snapshots.setdefault(snapshot.seq, (snapshot, kept))

    async def snapshot(self, key: str) -> tuple[Snapshot, memoryview] | None:
        """Return the newest snapshot with its body."""
        snapshots = self._log(key).snapshots
        if not snapshots:
            return None
        snapshot, body = snapshots[max(snapshots)]
        return snapshot, memoryview(body)

    async def trim(self, key: str) -> None:
        """Drop bodies and snapshots from before the second-newest snapshot."""
        log = self._log(key)
        if len(log.snapshots) < 2:  # noqa: PLR2004 - the rule is about the second-newest
            return
        kept = sorted(log.snapshots)[-2:]
        log.snapshots = {seq: log.snapshots[seq] for seq in kept}
        log.trimmed = min(kept[0], len(log.entries))
        log.bodies[: log.trimmed] = [b""] * log.trimmed

    def _log(self, key: str) -> _Log:
        """Return the log; one that is deleted or was never created reads as empty."""
        return self._logs.get(key, _Log(created_at=0.0))

    def _live(self) -> Sequence[Header]:
        return [header for header in self._headers.values() if header.deleted_at is None]
