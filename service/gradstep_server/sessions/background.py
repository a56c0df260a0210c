"""What goes on behind the requests: snapshots, trimming, and syncing relaxed steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from gradstep_server.errors import GradstepError
from gradstep_server.sessions.entries import REWIND
from gradstep_server.sessions.hot import Growth, Hot, HotSessions
from gradstep_server.sessions.observer import UNOBSERVED, Observer, SnapshotOutcome
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.snapshots import Capture, pieces_of
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Header, Ref, Store
from gradstep_server.sessions.timeline import Timeline

_log = logging.getLogger(__name__)

SYNC_AFTER = 1.0
"""Seconds after which a relaxed step is synced: what a loss of power can take."""

LAST_PIECES = 1.0
"""Seconds that snapshots under way have when the service ends; those that need more are
abandoned, and due again when their sessions are used next."""

_AT_ONCE = 2
"""Snapshots that are taken at a time: each holds copies of some megabytes, and the state itself
where its session is evicted meanwhile."""

_KEPT = 2
"""Snapshots of a branch that are always kept, so that it can be gone back a little."""


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """When a snapshot is due: as soon as any of the limits is reached."""

    log_factor: float = 4.0
    """Bytes of log since the newest, as a multiple of the state's."""

    floor: int = 16 << 20
    """Bytes of log that are never worth one, however small the state is."""

    steps: int | None = None
    """Steps since the newest."""

    seconds: float | None = None
    """Seconds since the newest, if there was a step since."""

    def due(self, growth: Growth, nbytes: int, now: float) -> bool:
        """Return whether a session of so many bytes needs a snapshot."""
        return (
            growth.log_bytes > max(self.log_factor * nbytes, self.floor)
            or (self.steps is not None and growth.steps >= self.steps)
            or (
                self.seconds is not None and growth.steps > 0 and now - growth.since >= self.seconds
            )
        )


DEFAULT_POLICY = SnapshotPolicy()


class Background:
    """Tasks of sessions that no request waits for. What they fail to do is done later."""

    def __init__(
        self,
        store: Store,
        hot: HotSessions,
        timeline: Timeline,
        policy: SnapshotPolicy,
        clock: Callable[[], float],
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._store = store
        self._hot = hot
        self._timeline = timeline
        self._policy = policy
        self._clock = clock
        self._observer = observer
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._closing = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """Sync what is not synced, finish or abandon snapshots, and end."""
        self._closing.set()
        snapshots = [task for (what, *_), task in self._tasks.items() if what == "snapshot"]
        if snapshots:
            _, unfinished = await asyncio.wait(snapshots, timeout=LAST_PIECES)
            for task in unfinished:
                task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def look_after(self, hot: Hot) -> None:
        """Do for a session that has just been written what is due, and not being done."""
        header, state = hot.loaded()
        if hot.durable_step != state.step:
            self._start("sync", hot, self._sync(hot, header))
        if self._policy.due(hot.growth, hot.nbytes, self._clock()):
            self._start("snapshot", hot, self._snapshot(hot))

    def _start(self, what: str, hot: Hot, work: Coroutine[Any, Any, None]) -> None:
        key = (what, *hot.ref)
        if key in self._tasks:
            work.close()
            return
        task = self._tasks[key] = asyncio.create_task(self._reported(what, hot, work))
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _reported(self, what: str, hot: Hot, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except GradstepError as error:  # the log has everything, and it is tried again
            _log.warning("no %s of session %s: %s", what, hot.ref[1], error)
        except Exception:
            _log.exception("no %s of session %s", what, hot.ref[1])
            raise

    async def _sync(self, hot: Hot, header: Header) -> None:
        """Sync what a relaxed session has acknowledged, a little later than it did."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SYNC_AFTER):
                await self._closing.wait()
        while (state := hot.state) is not None and hot.durable_step != state.step:
            generation, step = state.generation, state.step
            await self._store.sync(header.key)
            if hot.state is state and state.generation == generation:
                hot.durable_step = step

    async def _snapshot(self, hot: Hot) -> None:
        """Keep a snapshot, then trim."""
        async with self._turns:
            await self._take_snapshot(hot)

    async def _take_snapshot(self, hot: Hot) -> None:
        async with self._hot.use(hot.ref) as locked:
            header, state = locked.loaded()
            capture = Capture.begin(state)
            before, locked.growth = locked.growth, Growth(self._clock())
        kept, began = False, perf_counter()
        outcome: SnapshotOutcome = "failed"
        try:
            kept = await self._captured(header, state, capture, hot.ref)
            outcome = "kept" if kept else "abandoned"
        except asyncio.CancelledError:
            outcome = "abandoned"
            raise
        finally:
            self._observer.snapshot(outcome, perf_counter() - began)
            if not kept:  # it is still due
                hot.growth.log_bytes += before.log_bytes
                hot.growth.steps += before.steps
                hot.growth.since = before.since
        if kept:
            async with self._hot.use(hot.ref) as locked:  # so that no rewind comes in between
                await self._trim(*locked.loaded())

    async def _captured(self, header: Header, state: State, capture: Capture, ref: Ref) -> bool:
        """Write a snapshot piece by piece; a step waits only for the piece being copied.

        Returns:
            Whether it is kept: not where the session was dropped or rewound meanwhile.
        """
        generation = state.generation
        async with self._store.snapshot_writer(header.key) as writer:
            for batch in pieces_of(state):
                async with self._hot.locked(ref) as hot:
                    if hot.state is not state or state.generation != generation:
                        return False
                    size = sum(piece.stop - piece.start for piece in batch)
                    parts = await offload(size, capture.copy, state, batch)
                if parts is None:
                    return False
                for part in parts:
                    await offload(len(part), capture.add, part)
                    await writer.write(part)
            async with self._hot.use(ref) as hot:  # which looks at the log, if others write it
                if hot.state is not state or state.generation != generation:
                    return False
                await writer.commit(capture.sealed(state))
        return True

    async def _trim(self, header: Header, state: State) -> None:
        """Drop what the session's policy does not retain."""
        retain = state.config.retain
        head = await self._store.head(header.key)
        rewind = await self._store.newest(header.key, REWIND, head.seq)
        kept = await self._timeline.snapshots(header.key, head)
        if retain == "all" or len(kept) < _KEPT:
            return
        candidates = kept[: 1 - _KEPT]
        if isinstance(retain, int):
            limit = head.step - retain
            first = self._timeline.step_after
            candidates = [seq for seq in candidates if await first(header.key, seq) <= limit]
        if candidates:
            rewound = 0 if rewind is None else rewind.seq
            await self._store.trim(header.key, candidates[-1], rewound=rewound)
