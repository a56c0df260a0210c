"""Wherever a session goes, and goes back to, it is what it was there."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from session_runs import REF, SharedStore, SlowStore, created, held, live, opened, step
from session_states import config, frozen

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import ConfigPatch, ForkConfig
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Store


def content(state: State) -> Any:
    """Return what a rewind restores: all but the place in the log and the generation."""
    facts, tensors = frozen(state)
    return {k: v for k, v in facts.items() if k not in {"seq", "generation", "updated_at"}}, tensors


async def present(sessions: Sessions) -> Any:
    await sessions.view(REF)
    return content(live(sessions))


PROGRAMS = st.lists(
    st.sampled_from(["step", "step", "step", "patch", "epoch", "restart"])
    | st.floats(0, 1).map(lambda share: ("rewind", share))
    | st.floats(0, 1).map(lambda share: ("fork", share)),
    max_size=40,
)


class Walk:
    """A session on a store, and what it was after each step of its branch."""

    def __init__(self, store: Store, policy: SnapshotPolicy, retain: Any) -> None:
        self.store = store
        self.policy = policy
        self.settings = config(
            {"type": "Adam", "lr": 0.1},
            schedule_on="epoch",
            scheduler={"type": "ExponentialLR", "gamma": 0.9},
            retain=retain,
        )
        self.was: list[Any] = []
        self.count = 0
        self.furthest = 0

    async def run(self, program: list[Any]) -> None:
        self.sessions = await created(self.store, self.settings, policy=self.policy)
        self.was = [await present(self.sessions)]
        for command in program:
            self.count += 1
            await self.do(command)
        assert await held(opened(self.store)) == await held(self.sessions)

    async def do(self, command: Any) -> None:
        position = len(self.was) - 1
        if command == "step":
            await step(self.sessions, position + 1, {"w": [0.1 * self.count, -1.0]})
            self.was.append(await present(self.sessions))
            self.furthest = max(self.furthest, position + 1)
        elif command == "patch":
            patch = ConfigPatch(lr=0.01 * self.count)
            await self.sessions.patch(REF, patch, generation=None, version=None)
        elif command == "epoch":
            epoch = live(self.sessions).epoch
            await self.sessions.end_epoch(REF, epoch + 1, None, generation=None)
        elif command == "restart":
            await self.sessions.close()
            self.sessions = opened(self.store, policy=self.policy)
            await self.sessions.view(REF)
        else:
            await self.back(*command)

    async def back(self, command: str, share: float) -> None:
        oldest = (await self.sessions.view(REF)).oldest_step
        retain = self.settings.retain
        if isinstance(retain, int):
            # What was dropped for a position that was rewound does not come back.
            assert oldest <= max(0, self.furthest - retain)
        if oldest >= len(self.was):
            return
        to = oldest + round(share * (len(self.was) - 1 - oldest))
        if command == "rewind":
            await self.sessions.rewind(REF, to, generation=None, version=None)
            del self.was[to + 1 :]
            assert await present(self.sessions) == self.was[to]
        else:
            fork_id = f"f{self.count}"
            await self.sessions.fork(REF, fork_id, to, ForkConfig(), generation=None)
            fork = self.sessions._hot._all["alice", fork_id].loaded()[1]
            assert content(fork) == self.was[to]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    program=PROGRAMS,
    every=st.integers(1, 6),
    retain=st.sampled_from(["none", "all", 1, 5]),
    shared=st.booleans(),
)
def test_wherever_a_session_goes_back_to_it_is_what_it_was(
    program: list[Any], every: int, retain: Any, shared: bool
) -> None:
    store = SharedStore() if shared else SlowStore()
    walk = Walk(store, SnapshotPolicy(steps=every), retain)
    asyncio.run(walk.run(program))
