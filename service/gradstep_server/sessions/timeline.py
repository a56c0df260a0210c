"""What a session was after any entry of its log: the way there, and going it.

A log is a line, but a rewind makes it mean a tree: entry s of kind ``rewind``
with n = t says that what follows it continues from the state after entry t. The
*way* to an entry is the branch that it ends, as stretches of the log between
rewinds, beginning at a snapshot on it: at the newest that is what was written, as
long as the log behind that is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import orjson

from gradstep_server.errors import InvalidRequest
from gradstep_server.optimizers import Compute
from gradstep_server.sessions import lookups
from gradstep_server.sessions.digests import Index
from gradstep_server.sessions.entries import CONFIG, INIT, REWIND, STEP
from gradstep_server.sessions.errors import (
    ParamsMissing,
    SessionCorrupt,
    StepGone,
    StepNotFound,
)
from gradstep_server.sessions.headers import begins_filled, config_of
from gradstep_server.sessions.observer import UNOBSERVED, Observer
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.snapshots import (
    empty_state,
    fill_in,
    param_shapes,
    proven,
    shapes_in,
)
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Basis, Entry, Head, Header, Snapshot, Store
from gradstep_server.sessions.transitions import replay

_log = logging.getLogger(__name__)

_BYTES = 4
"""Bytes of most elements, to estimate the work on a body."""

_AT_ONCE = 2
"""States that are rebuilt from nothing at a time: each holds a snapshot, or a step's body, in
memory beside the budget, and more would only share the disk and the processors."""

_UNUSABLE = (InvalidRequest, LookupError, TypeError, ValueError)
"""What is met in a snapshot that is sealed, and does not hold what one of a session does."""

Reserve = Callable[[int], None]
"""Called with the bytes that a state will take before it takes them; may refuse."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to an entry: from where, and what is replayed."""

    snapshot: int | None
    """The snapshot to begin with; None to begin with the state at hand, or with nothing."""

    stretches: list[tuple[int, int]]
    """What to replay, in order: the entries behind the first number, up to the second."""

    @property
    def basis(self) -> Basis:
        """What this way relies on."""
        return Basis(self.snapshot, self.stretches[0][0])


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A state, and what it was rebuilt from."""

    state: State

    replayed: int
    """Bytes of log that led to it."""

    basis: Basis


class Timeline:
    """Finds entries of a session's branch, and rebuilds the states after them."""

    def __init__(self, store: Store, compute: Compute, observer: Observer = UNOBSERVED) -> None:
        self._store = store
        self._compute = compute
        self._observer = observer
        self._from_nothing = asyncio.Semaphore(_AT_ONCE)

    async def rebuild(
        self, header: Header, seq: int, start: State | None, reserve: Reserve
    ) -> Rebuilt:
        """Return the state after entry `seq`.

        Args:
            header: whose log.
            seq: the entry; 0 for an empty log.
            start: a state of the same log, which is used up if it lies on the way.
            reserve: asked before memory is taken.

        Raises:
            SessionCorrupt: what is needed is damaged, or was trimmed.
        """
        if start is not None and not await self._stands_in(header.key, start):
            start = None
        if start is not None:
            return await self._rebuild(header, seq, start, reserve)
        async with self._from_nothing:
            return await self._rebuild(header, seq, None, reserve)

    async def _rebuild(
        self, header: Header, seq: int, start: State | None, reserve: Reserve
    ) -> Rebuilt:
        began = perf_counter()
        way, state = await self._begun(header, seq, start, reserve)
        replayed = entries = 0
        for after, upto in way.stretches:
            async for entry, body in self._store.replay(header.key, after, upto):
                if entry.kind == INIT:
                    index: Index = orjson.loads(entry.record)["tensors"]
                    reserve(state.footprint(param_shapes(index)))
                await offload(len(body) // _BYTES, replay, state, entry, body, self._compute)
                replayed += len(body)
                entries += 1
                if entry.kind == CONFIG:
                    reserve(state.nbytes)
        if state.seq != seq:
            raise SessionCorrupt(f"the log ends at entry {state.seq}, entry {seq} is missing")
        self._observer.rebuilt(entries, perf_counter() - began)
        return Rebuilt(state, replayed, way.basis)

    async def entry_of(self, header: Header, state: State, step: int) -> Entry:
        """Return the entry after which the session had taken `step` steps.

        Raises:
            StepNotFound: it has not taken so many.
            ParamsMissing: it has not even begun.
            StepGone: what led to it was trimmed.
        """
        if step > state.step:
            raise StepNotFound(f"step {step} is not in the log; the session is at {state.step}")
        if not state.tensors:
            raise ParamsMissing("there is nothing to go back to; set the initial parameters first")
        entry = await lookups.find(self._store, header.key, STEP, step)
        if entry is None:
            entry = await lookups.initial(self._store, header.key)
        head = await self._store.head(header.key)
        oldest = await self.oldest(header.key, head)
        if entry is None or entry.seq < oldest or entry.step != step:
            first = await self.step_after(header.key, oldest)
            detail = f"step {step} is not kept any more; the oldest that is kept is {first}"
            raise StepGone(detail, oldest_step=first)
        return entry

    async def oldest_step(self, header: Header) -> int:
        """Return the first step that the session can be rewound to."""
        head = await self._store.head(header.key)
        return await self.step_after(header.key, await self.oldest(header.key, head))

    async def snapshots(self, key: str, head: Head) -> list[int]:
        """Return the snapshots on the way to the log's end, oldest first."""
        kept = [seq for seq, _ in await self._store.snapshots(key)]
        found: list[int] = []
        async for first, last in self._stretches(key, head.seq):
            found = [seq for seq in kept if first <= seq <= last] + found
            if not kept or first <= kept[0]:
                break
        return found

    async def oldest(self, key: str, head: Head) -> int:
        """Return the first entry on the way to the log's end whose state can be rebuilt."""
        if not head.trimmed:
            initial = await lookups.initial(self._store, key)
            return 0 if initial is None else initial.seq
        return min(await self.snapshots(key, head), default=head.seq)

    async def step_after(self, key: str, seq: int) -> int:
        """Return the first step whose entry is `seq` or lies behind it."""
        entry = await lookups.at(self._store, key, seq)
        if entry is None:
            return 0
        return entry.step if entry.kind in {STEP, INIT} else entry.step + 1

    async def _stands_in(self, key: str, state: State) -> bool:
        """Return whether the log still says how this state came to be."""
        entry = await self._store.at(key, state.seq)
        return (b"" if entry is None else entry.seal) == state.seal

    async def _begun(
        self, header: Header, seq: int, start: State | None, reserve: Reserve
    ) -> tuple[Way, State]:
        """Return the way to entry `seq`, and the state that it begins with.

        Raises:
            SessionCorrupt: the newest snapshot is damaged, and without it there is no way.
        """
        damage: SessionCorrupt | None = None
        async for way in self._ways(header.key, seq, None if start is None else start.seq):
            if damage is not None and not await self._is_open(header.key, way):
                raise damage
            if way.snapshot is None:
                state = _before_the_log(header, seq, way, start)
            else:
                try:
                    state = await self._snapshot(header, way.snapshot, reserve)
                except SessionCorrupt as error:
                    damage = damage or error
                    continue
            if damage is not None:
                _log.warning(
                    "session %s: %s; it is rebuilt from entry %d", header.id, damage, state.seq
                )
            break
        return way, state

    async def _is_open(self, key: str, way: Way) -> bool:
        """Return whether all that is replayed on a way is kept."""
        return (await self._store.head(key)).trimmed <= way.basis.after

    async def _ways(self, key: str, seq: int, start: int | None) -> AsyncIterator[Way]:
        """Yield the ways to entry `seq`, the shortest first; only one from the state at hand.

        The last one begins with that state, or with nothing.
        """
        kept = await self._store.snapshots(key)
        stretches: list[tuple[int, int]] = []
        async for first, last in self._stretches(key, seq):
            if start is not None and first <= start <= last:
                yield Way(None, [(start, last), *stretches])
                return
            for snapshot, base in reversed(kept):
                if first <= snapshot <= last:
                    yield Way(snapshot, [(base, last), *stretches])
            stretches.insert(0, (first - 1 if first else 0, last))
        yield Way(None, stretches)

    async def _stretches(self, key: str, seq: int) -> AsyncIterator[tuple[int, int]]:
        """Yield the first and the last entry of each stretch of the branch, the newest first.

        The first entry of a stretch is a rewind; that of the oldest stretch is 0,
        the empty log.
        """
        while (rewind := await self._store.newest(key, REWIND, seq)) is not None:
            if rewind.n >= rewind.seq:
                raise SessionCorrupt(f"entry {rewind.seq} of the log goes back to none before it")
            yield rewind.seq, seq
            seq = rewind.n
        yield 0, seq

    async def _snapshot(self, header: Header, seq: int, reserve: Reserve) -> State:
        """Return the state that a snapshot holds, to be replayed on from its base."""
        found = await self._store.snapshot(header.key, seq)
        if found is None:
            raise SessionCorrupt(f"the snapshot at entry {seq} is missing")
        snapshot, body = found
        try:
            facts = await offload(len(body) // _BYTES, proven, snapshot, body)
            state = empty_state(snapshot, facts)
            reserve(state.footprint(shapes_in(facts)))
            await offload(len(body) // _BYTES, fill_in, state, facts, body)
        except _UNUSABLE as error:
            raise SessionCorrupt(
                f"the snapshot at entry {seq} holds no state: {error!r}"
            ) from error
        last = await lookups.at(self._store, header.key, state.seq)
        if last is None:
            raise SessionCorrupt(f"entry {state.seq} of the log is missing")
        if facts.get("seal") != last.seal.hex() and not _is_of_format_1(snapshot, facts):
            raise SessionCorrupt(f"the snapshot at entry {seq} is of another history of the log")
        state.seal = last.seal
        return state


def _before_the_log(header: Header, seq: int, way: Way, start: State | None) -> State:
    """Return the state at hand if the way begins with it, otherwise that of a new session."""
    if start is not None and way.stretches[0][0] == start.seq:
        return start
    if seq == 0 and begins_filled(header):
        raise SessionCorrupt("the log is empty, and the session was created with parameters")
    return State.new(config_of(header), header.created_at)


def _is_of_format_1(snapshot: Snapshot, facts: Mapping[str, Any]) -> bool:
    """Return whether a snapshot does not name the entry that it belongs to: it is all of one."""
    return not facts.keys() & {"seal", "pieces"} and snapshot.base == snapshot.seq
