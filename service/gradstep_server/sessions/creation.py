"""How sessions begin: from a configuration, from tensors, or as a fork of another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradstep_server.optimizers import Compute
from gradstep_server.sessions.commands import altered, digest, fitting
from gradstep_server.sessions.config import ForkConfig, SessionConfig
from gradstep_server.sessions.digests import body
from gradstep_server.sessions.entries import INIT, sealed_entry
from gradstep_server.sessions.errors import (
    IdTaken,
    SessionConflict,
    SessionDeleted,
    Unavailable,
)
from gradstep_server.sessions.headers import Origin, begin_alike, header_of, origin_of
from gradstep_server.sessions.hot import HotSessions
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.quotas import Quotas
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Header, Ref, Store
from gradstep_server.sessions.tensors import Tensors, total_size
from gradstep_server.sessions.transfer import StateFile
from gradstep_server.sessions.transitions import advance


class Creation:
    """Creates sessions, each once."""

    def __init__(
        self,
        store: Store,
        hot: HotSessions,
        quotas: Quotas,
        compute: Compute,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._hot = hot
        self._quotas = quotas
        self._compute = compute
        self._clock = clock

    async def create(self, ref: Ref, config: SessionConfig, file: StateFile | None) -> bool:
        """Create a session that begins with `file`, if there is one.

        Returns:
            Whether the same request had created it before.

        Raises:
            SessionConflict, SessionDeleted: the id is taken.
            InvalidConfig, InvalidTensors: the content is wrong.
        """
        header, found = await self._new(ref, config, file, None)
        if found is not None:
            _recognise(found, same=lambda: begin_alike(found, header))
        return found is not None

    async def is_forked(self, new: Ref, asked: dict[str, Any]) -> bool:
        """Return whether what was asked for has made this fork already.

        Raises:
            SessionConflict, SessionDeleted: the id is taken.
        """
        found = await self._store.load(*new)
        if found is not None:
            _recognise_fork(found, asked)
        return found is not None

    async def fork(self, new: Ref, past: State, changes: ForkConfig, origin: Origin) -> bool:
        """Create a session that goes on from a state.

        Returns:
            Whether the same request had created it before.

        Raises:
            SessionConflict, SessionDeleted: the id is taken.
            InvalidConfig: the changes are wrong.
        """
        changed = altered(past, changes)
        file = StateFile.of_state(changed) if past.tensors else None
        _, found = await self._new(new, changed.config, file, origin)
        if found is not None:
            _recognise_fork(found, origin.asked)
        return found is not None

    async def _new(
        self, ref: Ref, config: SessionConfig, file: StateFile | None, fork: Origin | None
    ) -> tuple[Header, Header | None]:
        """Create a session; return its header, and that which had its id before."""
        now = self._clock()
        state = State.new(config, now)
        entry: Entry | None = None
        tensors: Tensors = {}
        nbytes = 0
        if file is not None:
            content = await digest(INIT, file.asked(), file.tensors)
            planned = await fitting(state, file)
            entry = sealed_entry(1, INIT, planned, content, file.tensors, now)
            tensors, nbytes = file.tensors, planned.nbytes or 0
        header = header_of(ref, config, entry, now, fork)
        async with self._hot.locked(ref) as hot:
            try:
                if hot.state is None:
                    self._hot.reserve(hot, nbytes)
                await self._quotas.admit_session(ref[0], total_size(tensors))
            except Unavailable:  # what is there already needs no room
                found = await self._store.load(*ref)
                if found is None:
                    raise
                return header, found
            try:
                await self._store.create(header, entry, body(tensors))
            except IdTaken as error:
                return header, error.header
            if entry is not None:
                size = total_size(tensors)
                await offload(size, advance, state, entry, tensors, self._compute)
            self._hot.fill(hot, header, state)
            return header, None


def _recognise(found: Header, *, same: Callable[[], bool]) -> None:
    """Raise unless an id was taken by the same request before."""
    if found.deleted_at is not None:
        raise SessionDeleted(f"the id {found.id!r} is never given again; choose another")
    if not same():
        detail = f"the session {found.id!r} was created with other content; choose another id"
        raise SessionConflict(detail)


def _recognise_fork(found: Header, asked: dict[str, Any]) -> None:
    def same() -> bool:
        origin = origin_of(found)
        return origin is not None and origin.asked == asked

    _recognise(found, same=same)
