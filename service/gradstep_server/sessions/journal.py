"""Appending to logs: exactly once, and applied only when it is committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gradstep_server.errors import GradstepError
from gradstep_server.optimizers import Compute
from gradstep_server.sessions.digests import body, seal
from gradstep_server.sessions.errors import SequenceTaken
from gradstep_server.sessions.hot import Hot, HotSessions
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.snapshots import snapshot_of
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Header, Store
from gradstep_server.sessions.tensors import Tensors, total_size
from gradstep_server.sessions.transitions import advance

_log = logging.getLogger(__name__)

SNAPSHOT_FACTOR = 4
SNAPSHOT_FLOOR = 16 << 20
"""A snapshot is due when the log since the last one exceeds `SNAPSHOT_FACTOR`
times the state, and `SNAPSHOT_FLOOR` bytes."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something to be done to a session exactly once."""

    kind: str
    digest: bytes
    tensors: Tensors

    find: Callable[[Header, State], Awaitable[Entry | None]]
    """Returns the entry if it was done already, None if it may be done now."""

    plan: Callable[[State], Awaitable[Planned]]
    """Returns what it would do; changes nothing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An entry that is not in the log yet."""

    n: int
    step: int
    record: bytes
    nbytes: int | None = None
    """The memory that the session takes from then on, where that changes."""


def sealed_entry(
    seq: int, kind: str, planned: Planned, content: bytes, tensors: Tensors, now: float
) -> Entry:
    """Return a complete entry."""
    entry = Entry(
        seq=seq,
        kind=kind,
        n=planned.n,
        step=planned.step,
        digest=content,
        record=planned.record,
        seal=b"",
        body_size=sum(len(tensor.data) for tensor in tensors.values()),
        created_at=now,
    )
    return replace(entry, seal=seal(entry))


class Journal:
    """Writes entries and snapshots of sessions that the caller has locked."""

    def __init__(
        self, store: Store, hot: HotSessions, compute: Compute, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._hot = hot
        self._compute = compute
        self._clock = clock
        self._snapshots: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for snapshots under way."""
        await asyncio.gather(*self._snapshots, return_exceptions=True)

    async def once(self, hot: Hot, command: Command) -> tuple[Entry, bool]:
        """Do `command` unless it is done; return its entry, and whether it was done before."""
        while True:
            header, state = hot.loaded()
            done = await command.find(header, state)
            if done is not None:
                return done, True
            planned = await command.plan(state)
            if planned.nbytes is not None:
                self._hot.reserve(hot, planned.nbytes)
            entry = sealed_entry(
                state.seq + 1, command.kind, planned, command.digest, command.tensors, self._clock()
            )
            if await self._commit(hot, entry, command.tensors):
                self._snapshot_if_due(hot)
                return entry, False

    async def _commit(self, hot: Hot, entry: Entry, tensors: Tensors) -> bool:
        """Append and apply; false, and caught up, if another writer was first."""
        header, state = hot.loaded()
        try:
            await self._store.append(header.key, entry, body(tensors))
            await offload(total_size(tensors), advance, state, entry, tensors, self._compute)
        except SequenceTaken:
            if not self._store.shared:  # then no one else writes, and memory was wrong
                self._hot.drop(hot)
            await self._hot.catch_up(hot)
            return False
        except BaseException:  # whatever happened, memory may not be what the log says
            self._hot.drop(hot)
            raise
        hot.log_bytes += entry.body_size
        return True

    def _snapshot_if_due(self, hot: Hot) -> None:
        if hot.log_bytes > max(SNAPSHOT_FACTOR * hot.nbytes, SNAPSHOT_FLOOR):
            hot.log_bytes = 0
            task = asyncio.create_task(self._snapshot(hot))
            self._snapshots.add(task)
            task.add_done_callback(self._snapshots.discard)

    async def _snapshot(self, hot: Hot) -> None:
        """Keep a snapshot and trim the log; steps of this session wait for it."""
        try:
            async with self._hot.use(hot.ref) as locked:
                header, state = locked.loaded()
                snapshot, parts = await offload(state.elements, snapshot_of, state)
                await self._store.put_snapshot(header.key, snapshot, parts)
                await self._store.trim(header.key)
        except GradstepError as error:
            # A snapshot saves time, it keeps no promise: the log has everything.
            _log.warning("no snapshot of session %s: %s", hot.ref[1], error)
        except Exception:
            _log.exception("no snapshot of session %s", hot.ref[1])
            raise
