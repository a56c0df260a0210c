"""Looking after a store: proving it, copying it, moving sessions out of it and into it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from gradstep_server import session_files
from gradstep_server.ending import CannotRun
from gradstep_server.keys import TENANT
from gradstep_server.opening import opened
from gradstep_server.optimizers import Compute
from gradstep_server.sessions import safetensors, verification
from gradstep_server.sessions.creation import Creation
from gradstep_server.sessions.errors import SessionNotFound, Unavailable
from gradstep_server.sessions.hot import HotSessions
from gradstep_server.sessions.quotas import NO_QUOTA, Quotas
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Header, Ref, Store
from gradstep_server.sessions.timeline import Timeline
from gradstep_server.sessions.verification import Report
from gradstep_server.settings import Settings
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.sqlite import backup
from gradstep_server.stores.sqlite.directory import CATALOGUE
from gradstep_server.stores.urls import directory_of
from gradstep_server.web.session_models import ID_PATTERN

Told = Callable[[str, float], None]
"""Called with what is being done, and how much of all is done: from 0 to 1."""

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or a restored store holds."""

    path: Path
    sessions: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What a file of a session holds."""

    step: int
    tensors: int
    nbytes: int
    replayed: bool = False
    """Whether the same file was imported under the same id before."""


async def verify(
    settings: Settings,
    tenant: str | None,
    ids: Sequence[str],
    found: Callable[[str, Report], None],
    told: Told,
) -> None:
    """Verify these sessions, or all.

    Args:
        settings: which store.
        tenant: whose sessions; by default everyone's, or where ids are given, the default one's.
        ids: which sessions; all if there are none.
        found: takes the name of each session and what was found of it.
        told: is told how far it is.

    Raises:
        CannotRun: the store cannot be opened, or there is no such session.
        Unavailable: the store as a whole has failed.
    """
    async with _existing(settings) as store:
        with closing(_compute(settings)) as compute:
            refs = [(tenant or TENANT, session_id) for session_id in ids]
            for ref in refs:
                await _header(store, ref)
            chosen = refs or await _all(store, tenant)
            for number, ref in enumerate(chosen):
                progress = _share(told, _name(ref), number, len(chosen))
                with suppress(SessionNotFound):  # it was deleted meanwhile
                    found(_name(ref), await _verified(store, ref, compute, progress))


def back_up(settings: Settings, target: Path, told: Told) -> Copied:
    """Copy the directory of a store that a server may be using.

    Raises:
        CannotRun: it is no such store.
        Unavailable: it cannot be copied; there is no backup then.
    """
    sessions = backup.backup(_directory(settings), target, _bytes(told, "copying"))
    return Copied(target, sessions, _size(target))


def restore(settings: Settings, source: Path, told: Told) -> Copied:
    """Make the directory of a store from a backup.

    Raises:
        CannotRun: it is no such store.
        Unavailable: it cannot be restored; nothing was changed then.
    """
    target = _directory(settings)
    sessions = backup.restore(source, target, _bytes(told, "restoring"))
    return Copied(target, sessions, _size(target))


async def export_session(settings: Settings, ref: Ref, file: Path, step: int | None) -> Moved:
    """Write a session's state, of now or after a step, to a file that is whole or not there.

    Raises:
        CannotRun: the store cannot be opened, or the file not written.
        GradstepError: there is no such session or step, or it is damaged.
    """
    async with _existing(settings) as store:
        with closing(_compute(settings)) as compute:
            sessions = Sessions(store, compute, settings.memory_budget)
            tensors, metadata = await sessions.state(ref, step)
            await sessions.close()
    parts = safetensors.encode(tensors, metadata)
    session_files.write(file, parts)
    return Moved(int(metadata["step"]), len(tensors), sum(map(len, parts)))


async def import_session(settings: Settings, file: Path, ref: Ref) -> Moved:
    """Create a session with the configuration and the state that a file carries.

    Raises:
        CannotRun: the store cannot be opened, or the file not read.
        GradstepError: the id is taken, or the session would take too much memory.
    """
    if not re.fullmatch(ID_PATTERN, ref[1]):
        detail = f"{ref[1]!r} is no id; use up to 64 letters, digits and _.- after the first"
        raise CannotRun(detail, exit_code=2)
    _require_lasting(settings)
    config, state, nbytes = session_files.read(file, settings)
    async with opened(settings) as store:
        with closing(_compute(settings)) as compute:
            timeline = Timeline(store, compute)
            hot = HotSessions(store, timeline, compute, settings.memory_budget, time.time)
            creation = Creation(store, hot, Quotas(store, NO_QUOTA), compute, time.time)
            begin = state if state.tensors else None
            replayed = await creation.create(ref, config, begin)
    return Moved(state.step, len(state.tensors), nbytes, replayed)


def _require_lasting(settings: Settings) -> None:
    """Refuse a store that is gone when its server ends."""
    if settings.store == MemoryStore.url:
        detail = f"{MemoryStore.url} ends with its server; name another store with --store"
        raise CannotRun(detail, exit_code=2)


@asynccontextmanager
async def _existing(settings: Settings) -> AsyncIterator[Store]:
    """Open a store that was used before."""
    _require_lasting(settings)
    directory = directory_of(settings.store)
    if directory is not None and not (directory / CATALOGUE).is_file():
        raise CannotRun(f"there is no store in {directory}; name another one with --store")
    async with opened(settings) as store:
        yield store


def _directory(settings: Settings) -> Path:
    """Return the directory of an embedded store."""
    directory = directory_of(settings.store)
    if directory is None:
        raise CannotRun(
            "only a store in a directory, sqlite:///DIR, is copied; for PostgreSQL use pg_dump, "
            "and pg_restore or psql",
            exit_code=2,
        )
    return directory


def _compute(settings: Settings) -> Compute:
    return Compute(settings.threads or os.cpu_count() or 1)


async def _header(store: Store, ref: Ref) -> Header:
    """Return the header of a session that is not deleted."""
    header = await store.load(*ref)
    if header is None or header.deleted_at is not None:
        raise SessionNotFound(f"there is no session {_name(ref)!r}")
    return header


async def _all(store: Store, tenant: str | None) -> list[Ref]:
    """Return the sessions of a tenant, or of everyone."""
    refs: list[Ref] = []
    for owner in await store.usage(sizes=False) if tenant is None else (tenant,):
        after = ""
        while page := await store.list(owner, after, _PAGE):
            refs += ((owner, header.id) for header, _ in page)
            after = refs[-1][1]
    return refs


def _name(ref: Ref) -> str:
    """Return what an operator calls a session: by its tenant too, where that is not the default."""
    return ref[1] if ref[0] == TENANT else "/".join(ref)


async def _verified(
    store: Store, ref: Ref, compute: Compute, progress: verification.Progress
) -> Report:
    try:
        header = await _header(store, ref)
        return await verification.verify(store, header, compute, progress)
    except Unavailable as error:
        await store.check()  # which fails too, unless it is this session's file alone
        return Report(0, 0, 0, 0, (error.detail,))


def _share(told: Told, what: str, number: int, count: int) -> Callable[[int, int], None]:
    """Return what takes how much is done of one thing among so many."""
    return lambda done, total: told(what, (number + done / total) / count)


def _bytes(told: Told, what: str) -> Callable[[int, int], None]:
    """Return what takes bytes done and bytes in all."""
    return lambda done, total: told(what, done / total if total else 1)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
