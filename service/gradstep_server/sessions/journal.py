"""Appending to logs: exactly once, and applied only when it is committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gradstep_server.optimizers import Compute
from gradstep_server.sessions.background import Background
from gradstep_server.sessions.digests import body
from gradstep_server.sessions.entries import STEP, UNSYNCED, Planned, sealed_entry
from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt
from gradstep_server.sessions.hot import Hot, HotSessions
from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.offload import ARITHMETIC, offload
from gradstep_server.sessions.quotas import Quotas
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Basis, Entry, Header, Store
from gradstep_server.sessions.tensors import Tensors, total_size
from gradstep_server.sessions.transitions import advance


@dataclass(frozen=True, slots=True)
class Command:
    """Something to be done to a session exactly once."""

    kind: str
    digest: bytes
    tensors: Tensors

    find: Callable[[Header, State], Awaitable[Entry | None]]
    """Returns the entry if it was done already, None if it may be done now."""

    plan: Callable[[Header, State], Awaitable[Planned]]
    """Returns what it would do; changes nothing."""


class Journal:
    """Writes entries of sessions that the caller has locked."""

    def __init__(
        self,
        store: Store,
        hot: HotSessions,
        quotas: Quotas,
        compute: Compute,
        background: Background,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._hot = hot
        self._quotas = quotas
        self._compute = compute
        self._background = background
        self._clock = clock

    async def once(
        self, hot: Hot, command: Command, laps: Laps | None = None
    ) -> tuple[Entry, bool]:
        """Do `command` unless it is done; return its entry, and whether it was done before."""
        laps = laps or Laps()
        while True:
            done = await command.find(*hot.loaded())
            if done is not None:
                return done, True
            planned = await command.plan(*hot.loaded())
            if planned.nbytes is not None:
                self._hot.reserve(hot, planned.nbytes)
            after = hot.loaded()[1].seal
            entry = sealed_entry(
                hot.loaded()[1].seq + 1,
                command.kind,
                planned,
                command.digest,
                command.tensors,
                self._clock(),
            )
            await self._quotas.admit_entry(hot.ref[0], entry.body_size)
            basis = None
            if planned.past is not None:
                basis = await self._go_back(hot, command, planned.past)
            laps.end("compute")
            if await self._commit(hot, entry, command.tensors, after, basis, laps):
                self._background.look_after(hot)
                return entry, False

    async def _go_back(self, hot: Hot, command: Command, past: int) -> Basis:
        """Make the session what it was after entry `past`, for what is committed next."""
        try:
            return await self._hot.go_back(hot, past)
        except SessionCorrupt:
            await self._hot.catch_up(hot)
            await command.plan(*hot.loaded())  # which refuses what was trimmed just now
            raise

    async def _commit(
        self,
        hot: Hot,
        entry: Entry,
        tensors: Tensors,
        after: bytes,
        basis: Basis | None,
        laps: Laps,
    ) -> bool:
        """Append and apply; false, and caught up, if another process was first."""
        header, state = hot.loaded()
        relaxed = state.config.durability == "relaxed" and entry.kind in UNSYNCED
        try:
            synced = await self._store.append(
                header.key, entry, body(tensors), after=after, synced=not relaxed, basis=basis
            )
        except SequenceTaken:
            if not self._store.shared:  # then no one else writes, and memory was wrong
                self._hot.drop(hot)
            await self._hot.catch_up(hot)
            return False
        except BaseException:  # whatever happened, it may be in the log
            hot.doubted = True
            raise
        laps.end("append")
        try:
            size = total_size(tensors) // ARITHMETIC
            await offload(size, advance, state, entry, tensors, self._compute)
        except BaseException:  # it may be applied in part
            self._hot.drop(hot)
            raise
        laps.end("compute")
        if synced:
            hot.durable_step = state.step
        hot.growth.log_bytes += entry.body_size
        hot.growth.steps += entry.kind == STEP
        return True
