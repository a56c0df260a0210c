"""Sessions in memory: one lock and one state each, under a budget of bytes.

A hot session is a cache of its log, nothing more: it may be dropped at any
time when no one uses it, and it is dropped whenever it might be wrong. Where only
the log may have gone on, the seal of its last entry tells whether it has: an entry
is appended where the one before it is known by its seal, so one last seal is of one log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from gradstep_server.optimizers import Compute
from gradstep_server.sessions.digests import canonical, content_digest
from gradstep_server.sessions.entries import RECOVERY, Planned, sealed_entry
from gradstep_server.sessions.errors import (
    MemoryExhausted,
    SequenceTaken,
    SessionCorrupt,
    SessionNotFound,
)
from gradstep_server.sessions.observer import UNOBSERVED, Memory, Observer
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Basis, Head, Header, Ref, Store
from gradstep_server.sessions.tensors import DType
from gradstep_server.sessions.timeline import Timeline
from gradstep_server.sessions.transitions import advance


@dataclass
class Growth:
    """What the log has gained since the newest snapshot."""

    since: float
    log_bytes: int = 0
    steps: int = 0


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

    doubted: bool = False
    """Whether the log may have gone on without the state: an append to it has failed."""

    durable_step: int = 0
    """The last step that is known to be synced."""

    growth: Growth = field(default_factory=lambda: Growth(0.0))

    nbytes: int = 0
    """What the state counts for in the budget."""

    def loaded(self) -> tuple[Header, State]:
        """Return what `HotSessions.use` has loaded."""
        if self.header is None or self.state is None:
            raise AssertionError("a session is used outside of HotSessions.use")
        return self.header, self.state


class HotSessions:
    """The sessions in memory, least recently used first."""

    def __init__(
        self,
        store: Store,
        timeline: Timeline,
        compute: Compute,
        budget: int,
        clock: Callable[[], float],
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._store = store
        self._timeline = timeline
        self._compute = compute
        self._budget = budget
        self._clock = clock
        self._observer = observer
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

    @asynccontextmanager
    async def past(self, header: Header, seq: int) -> AsyncIterator[State]:
        """Rebuild what a session was after entry `seq`, beside what it is, for the block."""
        beside = (header.tenant, f"{header.id}@{secrets.token_hex(8)}")
        async with self.locked(beside) as hot:
            rebuilt = await self._timeline.rebuild(header, seq, None, partial(self.reserve, hot))
            try:
                hot.state = rebuilt.state  # so that it counts
                yield rebuilt.state
            finally:
                hot.state = None

    def memory(self) -> Memory:
        """Return what the sessions in memory take of the budget."""
        loaded = [hot.nbytes for hot in self._all.values() if hot.state is not None]
        return Memory(len(loaded), sum(loaded), self._budget)

    def dtype(self, ref: Ref) -> DType | None:
        """Return the dtype of the parameters of a session that is in memory."""
        hot = self._all.get(ref)
        return None if hot is None or hot.state is None else hot.state.config.dtype

    async def catch_up(self, hot: Hot) -> None:
        """Bring a locked session to the end of its log."""
        if hot.state is None:
            await self._load(hot)
        elif self._store.shared or hot.doubted:
            await self._look(hot)

    async def go_back(self, hot: Hot, seq: int) -> Basis:
        """Make a locked session what it was after entry `seq`; return what that relies on.

        Until the entry that says so is in the log, memory is not what the log
        says, and no one else may see it.
        """
        header = hot.loaded()[0]
        hot.state = None  # so that there is never room for two taken
        rebuilt = await self._timeline.rebuild(header, seq, None, partial(self.reserve, hot))
        hot.state = rebuilt.state
        return rebuilt.basis

    async def _look(self, hot: Hot) -> None:
        """Replay what has been appended meanwhile, or notice a deletion."""
        header = await self._header(hot)
        head = await self._head(hot, header)
        if head.suspect or not await self._followed(hot, header, head):
            await self._load(hot)
        hot.doubted = False

    async def _followed(self, hot: Hot, header: Header, head: Head) -> bool:
        """Bring the state at hand to the log's end; return whether that was possible."""
        state = hot.loaded()[1]
        if (head.seq, head.seal) == (state.seq, state.seal):
            return True
        with suppress(SessionCorrupt):  # or it cannot be replayed onto this state
            state = await self._replay(hot, header, head.seq, state)
            if state.config.durability == "relaxed":  # others may not have synced it yet
                await self._store.sync(header.key)
            hot.durable_step = state.step
            return True
        return False

    async def _load(self, hot: Hot) -> None:
        """Rebuild the state from the store."""
        try:
            header = await self._header(hot)
            state = await self._rebuilt(hot, header)
            if state.config.durability == "relaxed":  # what can be read may not be synced yet
                await self._store.sync(header.key)
        except BaseException:
            self.drop(hot)
            raise
        hot.durable_step = state.step

    async def _rebuilt(self, hot: Hot, header: Header) -> State:
        """Return the state at the log's end, behind a recovery if there may be a loss."""
        tried: Sequence[tuple[int, int]] = ()
        while True:
            kept = await self._store.snapshots(header.key)
            head = await self._head(hot, header)
            try:
                state = await self._replay(hot, header, head.seq, None)
            except SessionCorrupt:
                await self._header(hot)  # what was deleted meanwhile is not damaged
                # Another process may have trimmed since: then there is a newer snapshot.
                if not self._store.shared or list(kept) == list(tried):
                    raise
                tried = kept
                continue
            if not head.suspect or await self._recovered(hot):
                return state

    async def _recovered(self, hot: Hot) -> bool:
        """Begin a generation behind a loss; return whether no other process has begun one."""
        header, state = hot.loaded()
        record = canonical({"asked": {}, "generation": state.generation + 1})
        content = content_digest({"kind": RECOVERY}, {})
        planned = Planned(0, state.step, record)
        entry = sealed_entry(state.seq + 1, RECOVERY, planned, content, {}, self._clock())
        try:
            await self._store.append(header.key, entry, (), after=state.seal)
        except SequenceTaken:
            return False
        advance(state, entry, {}, self._compute)
        return True

    async def _head(self, hot: Hot, header: Header) -> Head:
        """Return where the log of a session that is not deleted stands."""
        head = await self._store.head(header.key)
        if not head.seq:  # so reads a log that was deleted just now, too
            await self._header(hot)
        return head

    async def _header(self, hot: Hot) -> Header:
        """Return the header of a session that is not deleted."""
        header = await self._store.load(*hot.ref)
        if header is None or header.deleted_at is not None:
            self.drop(hot)
            raise SessionNotFound(f"there is no session {hot.ref[1]!r}")
        return header

    async def _replay(self, hot: Hot, header: Header, seq: int, start: State | None) -> State:
        """Rebuild the state after entry `seq`; it is hot only when that has succeeded."""
        hot.state = None
        if start is None:
            hot.growth = Growth(self._clock())
        rebuilt = await self._timeline.rebuild(header, seq, start, partial(self.reserve, hot))
        hot.growth.log_bytes += rebuilt.replayed
        hot.header, hot.state, hot.doubted = header, rebuilt.state, False
        return rebuilt.state

    def fill(self, hot: Hot, header: Header, state: State) -> None:
        """Keep the state of a session that was created just now."""
        hot.header, hot.state = header, state
        hot.durable_step = state.step
        hot.growth = Growth(self._clock())

    def reserve(self, hot: Hot, nbytes: int) -> None:
        """Count a session's bytes in the budget, evicting sessions that no one uses.

        Raises:
            MemoryExhausted: the sessions in use leave no room; nothing was evicted.
        """
        others = [other for other in self._all.values() if other is not hot]
        free = self._budget - sum(other.nbytes for other in others if other.users)
        if nbytes > free:
            takes = f"the session takes {nbytes} bytes, the memory budget"
            if nbytes > self._budget:
                raise MemoryExhausted(f"{takes} is {self._budget}; raise the budget")
            raise MemoryExhausted(f"{takes} leaves {max(free, 0)}; retry when others are idle")
        idle = deque(other for other in others if not other.users)
        free -= sum(other.nbytes for other in idle)
        while free < nbytes:
            evicted = idle.popleft()
            free += evicted.nbytes
            del self._all[evicted.ref]
            self._observer.evicted()
        hot.nbytes = nbytes

    def drop(self, hot: Hot) -> None:
        """Forget the state of a session; the next use rebuilds it from the store."""
        hot.state = None
