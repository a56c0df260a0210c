"""Sessions in memory: one lock and one state each, under a budget of bytes.

A hot session is a cache of its log, nothing more: it may be dropped at any
time when no one uses it, and it is dropped whenever it might be wrong.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from gradstep_server.optimizers import Compute
from gradstep_server.sessions.digests import Index
from gradstep_server.sessions.errors import MemoryExhausted, SessionCorrupt, SessionNotFound
from gradstep_server.sessions.headers import config_of
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.snapshots import empty_state, fill_in, param_sizes, proven
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Header, Store
from gradstep_server.sessions.transitions import CONFIG, INIT, replay

_BYTES = 4
"""Bytes of most elements, to estimate the work on a body."""

Ref = tuple[str, str]
"""A session's tenant and id."""


@dataclass
class Hot:
    """A session that is, or will be, in memory."""

    ref: Ref
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    """Tasks that hold or await the lock; a used session is not evicted."""

    header: Header | None = None
    state: State | None = None
    """None until loaded, and again when it might be wrong."""

    log_bytes: int = 0
    """Bytes of the log since the newest snapshot."""

    nbytes: int = 0
    """What the state counts for in the budget."""

    def loaded(self) -> tuple[Header, State]:
        """Return what `HotSessions.use` has loaded."""
        if self.header is None or self.state is None:
            raise AssertionError("a session is used outside of HotSessions.use")
        return self.header, self.state


class HotSessions:
    """The sessions in memory, least recently used first."""

    def __init__(self, store: Store, compute: Compute, budget: int) -> None:
        self.store = store
        self.compute = compute
        self.budget = budget
        self._all: OrderedDict[Ref, Hot] = OrderedDict()

    @asynccontextmanager
    async def use(self, ref: Ref) -> AsyncIterator[Hot]:
        """Lock a session, current with its log, for the block.

        Raises:
            SessionNotFound: there is no such session, or no more.
            SessionCorrupt: its log is damaged.
            MemoryExhausted: it does not fit the budget.
        """
        async with self.locked(ref) as hot:
            await self.catch_up(hot)
            yield hot

    @asynccontextmanager
    async def locked(self, ref: Ref) -> AsyncIterator[Hot]:
        """Lock a session for the block, loaded or not."""
        hot = self._all.setdefault(ref, Hot(ref))
        self._all.move_to_end(ref)
        hot.users += 1
        try:
            async with hot.lock:
                yield hot
        finally:
            hot.users -= 1
            if hot.state is None:
                hot.nbytes = 0
                if not hot.users:
                    self._all.pop(ref, None)

    def header(self, ref: Ref) -> Header | None:
        """Return the header of a session that is in memory."""
        hot = self._all.get(ref)
        return hot.header if hot is not None and hot.state is not None else None

    async def catch_up(self, hot: Hot) -> None:
        """Bring a locked session to the end of its log."""
        if hot.state is None:
            await self._load(hot)
        elif self.store.shared:
            await self._look(hot)

    async def _look(self, hot: Hot) -> None:
        """Replay what other processes have appended, or notice a deletion."""
        header = await self.store.load(*hot.ref)
        if header is None or header.deleted_at is not None or hot.state is None:
            self.drop(hot)
            raise SessionNotFound(f"there is no session {hot.ref[1]!r}; it was deleted")
        if (await self.store.head(header.key)).seq == hot.state.seq:
            return
        try:
            await self._replay(hot, header, hot.state)
        except SessionCorrupt:  # or another process trimmed what is missing here
            await self._load(hot)

    async def _load(self, hot: Hot) -> None:
        """Rebuild the state: the newest snapshot, then the entries behind it."""
        header = await self.store.load(*hot.ref)
        if header is None or header.deleted_at is not None:
            raise SessionNotFound(f"there is no session {hot.ref[1]!r}")
        tried = -1
        while True:
            state = await self._newest_snapshot(hot, header)
            base = state.seq
            try:
                return await self._replay(hot, header, state)
            except SessionCorrupt:
                # Another process may have trimmed since: then there is a newer snapshot.
                if not self.store.shared or base == tried:
                    raise
                tried = base

    async def _newest_snapshot(self, hot: Hot, header: Header) -> State:
        """Return the state to replay onto: of the newest snapshot, or of an empty log."""
        hot.log_bytes = 0
        if (kept := await self.store.snapshot(header.key)) is None:
            return State.new(config_of(header), header.created_at)
        snapshot, body = kept
        facts = await offload(len(body) // _BYTES, proven, snapshot, body)
        state = empty_state(snapshot.seq, facts)
        self._reserve_index(hot, state, facts["tensors"])
        await offload(len(body) // _BYTES, fill_in, state, facts, body)
        return state

    async def _replay(self, hot: Hot, header: Header, state: State) -> None:
        """Apply the entries behind `state`; the result is hot only when all are."""
        hot.state = None
        async for entry, body in self.store.replay(header.key, state.seq):
            if entry.kind == INIT:
                self._reserve_index(hot, state, orjson.loads(entry.record)["tensors"])
            await offload(len(body) // _BYTES, replay, state, entry, body, self.compute)
            hot.log_bytes += len(body)
            if entry.kind == CONFIG:
                self.reserve(hot, state.nbytes)
        hot.header, hot.state = header, state

    def _reserve_index(self, hot: Hot, state: State, tensors: Index) -> None:
        """Count what a session with these tensors will take, before it takes it."""
        self.reserve(hot, state.footprint(param_sizes(tensors)))

    def reserve(self, hot: Hot, nbytes: int) -> None:
        """Count a session's bytes in the budget, evicting sessions that no one uses.

        Raises:
            MemoryExhausted: the sessions in use leave no room; nothing was evicted.
        """
        others = [other for other in self._all.values() if other is not hot]
        free = self.budget - sum(other.nbytes for other in others if other.users)
        if nbytes > free:
            takes = f"the session takes {nbytes} bytes, the memory budget"
            if nbytes > self.budget:
                raise MemoryExhausted(f"{takes} is {self.budget}; raise the budget")
            raise MemoryExhausted(f"{takes} leaves {max(free, 0)}; retry when others are idle")
        idle = deque(other for other in others if not other.users)
        free -= sum(other.nbytes for other in idle)
        while free < nbytes:
            evicted = idle.popleft()
            free += evicted.nbytes
            del self._all[evicted.ref]
        hot.nbytes = nbytes

    def drop(self, hot: Hot) -> None:
        """Forget the state of a session; the next use rebuilds it from the store."""
        hot.state = None
