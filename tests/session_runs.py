"""Sessions on a store in memory, stores that go wrong, and steps to send."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from session_states import COMPUTE, NOON, config, frozen, packed_all

from gradstep_server.sessions.background import DEFAULT_POLICY, SnapshotPolicy
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.observer import UNOBSERVED, Observer
from gradstep_server.sessions.receipts import Stepped
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.store import Basis, Body, Entry, Store
from gradstep_server.stores.memory import MemoryStore

REF = ("alice", "s")
BUDGET = 1 << 20
ADAM = config({"type": "Adam", "lr": 0.1})
PARAMS = packed_all({"w": [1.0, 2.0], "b": 0.5})


class SlowStore(MemoryStore):
    """A store that lets other tasks run in the middle of an append and of a delete."""

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        await asyncio.sleep(0)
        done = await super().append(key, entry, body, after=after, synced=synced, basis=basis)
        await asyncio.sleep(0)
        return done

    async def delete(self, header: Any, seq: int | None) -> None:
        await asyncio.sleep(0)
        await super().delete(header, seq)
        await asyncio.sleep(0)


class SharedStore(SlowStore):
    """A store that other processes append to: other `Sessions`, in these tests."""

    shared = True


class BreakingStore(MemoryStore):
    """A store whose next append fails, before or after it is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = ""

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        breaks, self.breaks = self.breaks, ""
        if breaks == "before":
            raise StoreUnavailable("the disk went away")
        done = await super().append(key, entry, body, after=after, synced=synced, basis=basis)
        if breaks == "after":
            raise StoreUnavailable("the connection went away")
        if breaks == "never answers":
            await asyncio.Event().wait()
        return done


def opened(
    store: Store,
    budget: int = BUDGET,
    policy: SnapshotPolicy = DEFAULT_POLICY,
    observer: Observer = UNOBSERVED,
) -> Sessions:
    """Return sessions on a store, as another process would open them."""
    ticks = itertools.count(1)
    return Sessions(
        store, COMPUTE, budget, policy, clock=lambda: NOON + next(ticks), observer=observer
    )


async def created(
    store: Store | None = None,
    settings: SessionConfig = ADAM,
    *,
    steps: int = 0,
    policy: SnapshotPolicy = DEFAULT_POLICY,
    observer: Observer = UNOBSERVED,
) -> Sessions:
    """Return sessions of which one exists and was stepped so often."""
    sessions = opened(store or SlowStore(), policy=policy, observer=observer)
    await sessions.create(REF, settings, PARAMS)
    for n in range(1, steps + 1):
        await step(sessions, n)
    return sessions


async def step(
    sessions: Sessions,
    n: int | None,
    gradients: Mapping[str, ArrayLike] | None = None,
    *,
    generation: int | None = None,
    **asked: Any,
) -> Stepped:
    """Take a step, by default with gradients that depend on n."""
    sent = gradients or {"w": np.full(2, 0.1 * (n or 1)), "b": 1.0}
    return await sessions.step(
        REF, n, packed_all(sent), Asked(**asked), generation=generation, want_params=True
    )


def live(sessions: Sessions) -> State:
    """Return the state that sessions hold in memory."""
    state = sessions._hot._all[REF].state
    assert state is not None
    return state


async def held(sessions: Sessions) -> Any:
    """Return all that a session is, loaded if need be, to be compared bit for bit."""
    await sessions.view(REF)
    return frozen(live(sessions))
