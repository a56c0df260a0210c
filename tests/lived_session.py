"""A session that went through everything, and what `verify` finds of it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from session_runs import REF, SlowStore, opened, step
from session_states import COMPUTE, config, packed_all

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Header, SnapshotWriter, Store
from gradstep_server.sessions.verification import Report, verify
from gradstep_server.stores.memory import MemoryStore

Other = TypeVar("Other", bound=MemoryStore)

PARAMS = packed_all({"w": [1.0, 2.0, 3.0, 4.0, 5.0], "b": 0.5, "c": [1.0, 2.0]})
SETTINGS = config(
    {"type": "Adam", "lr": 0.1},
    schedule_on="epoch",
    scheduler={"type": "ExponentialLR", "gamma": 0.9},
    retain=6,
)
TRIMMED = 6
"""The last entry of `lived` whose body is gone."""

KEPT = {8: 6, 17: 11, 23: 19, 26: 25, 31: 31, 36: 36}
"""The base of each of its snapshots; 17, 23 and 26 are of branches that it left."""

REWINDS = (18, 28)
ENTRIES = 36


class PieceByPiece(SlowStore):
    """A store that lets other tasks run between the pieces of a snapshot."""

    @asynccontextmanager
    async def snapshot_writer(self, key: str) -> AsyncIterator[SnapshotWriter]:
        async with super().snapshot_writer(key) as writer:
            yield _Writer(writer)


def copied(store: PieceByPiece) -> PieceByPiece:
    """Return a store with the same content, which may be damaged."""
    return copy.deepcopy(store, {id(store._buffers): store._buffers})


class _Writer:
    def __init__(self, writer: SnapshotWriter) -> None:
        self.commit = writer.commit
        self._writer = writer

    async def write(self, part: memoryview) -> None:
        await self._writer.write(part)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def walk(sessions: Sessions, first: int, last: int, *, settle: bool = True) -> None:
    """Take steps whose gradients leave out one tensor or another; let snapshots end."""
    for n in range(first, last + 1):
        gradients: dict[str, Any] = {"w": [0.1 * n, 1.0, -1.0, 0.5, 0.25], "b": -0.3, "c": [0.5, n]}
        del gradients[("b", "c", "w")[n % 3]]
        await step(sessions, n, gradients)
    if settle:
        await sessions.close()


async def rewind(sessions: Sessions, to: int) -> None:
    await sessions.rewind(REF, to, generation=None, version=None)


async def lived() -> PieceByPiece:
    """Return a store with a session of all kinds of entries, trimmed, with three branches.

    Where `snapshots.PIECE` is 2, its snapshots are those of `KEPT`.
    """
    store = PieceByPiece()
    sessions = opened(store, policy=SnapshotPolicy(steps=4))
    await sessions.create(REF, SETTINGS, PARAMS)
    await walk(sessions, 1, 7)
    await walk(sessions, 8, 10, settle=False)
    await sessions.end_epoch(REF, 1, None, generation=None)
    await sessions.patch(REF, ConfigPatch(lr=0.2), generation=None, version=None)
    await walk(sessions, 11, 14)
    await rewind(sessions, 12)
    await walk(sessions, 13, 17)
    await walk(sessions, 18, 20)
    await sessions.end_epoch(REF, 2, None, generation=None)
    await rewind(sessions, 15)
    await walk(sessions, 16, 18)
    await walk(sessions, 19, 23)
    return store


async def header_of(store: Store) -> Header:
    header = await store.load(*REF)
    assert header is not None
    return header


async def verified(store: Store) -> Report:
    return await verify(store, await header_of(store), COMPUTE)


async def problems(store: Store) -> list[str]:
    return list((await verified(store)).problems)


def log_of(store: MemoryStore) -> Any:
    [log] = store._logs.values()
    return log


def of_the_same(store: MemoryStore, other: Other) -> Other:
    """Return another store of the same logs."""
    other._headers, other._logs = store._headers, store._logs
    return other
