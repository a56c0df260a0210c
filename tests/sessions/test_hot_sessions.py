"""Sessions share a budget of memory; those that no one uses make room."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from session_runs import ADAM, SlowStore, opened
from session_states import config, packed, packed_all

from gradstep_server.sessions.config import ConfigPatch
from gradstep_server.sessions.errors import MemoryExhausted, SessionNotFound
from gradstep_server.sessions.receipts import View
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

SIZE = 3 * 8 * 100
"""The bytes of a session of 100 float64 under Adam."""

PARAMS = packed_all({"w": np.zeros(100)})


def ref(name: str) -> tuple[str, str]:
    return "alice", name


async def three(budget: int) -> Sessions:
    sessions = opened(MemoryStore(), budget)
    for name in ("a", "b", "c"):
        await sessions.create(ref(name), ADAM, PARAMS)
    return sessions


def hot(sessions: Sessions) -> list[str]:
    """Return the sessions in memory, the least recently used first."""
    return [name for (_, name), hot in sessions._hot._all.items() if hot.state is not None]


async def test_the_least_recently_used_session_makes_room() -> None:
    sessions = await three(3 * SIZE)
    assert hot(sessions) == ["a", "b", "c"]
    await sessions.view(ref("a"))
    await sessions.create(ref("d"), ADAM, PARAMS)
    assert hot(sessions) == ["c", "a", "d"]


async def test_an_evicted_session_comes_back_as_it_was() -> None:
    sessions = await three(SIZE)
    gradient = packed_all({"w": np.ones(100)})
    for n in (1, 2, 3):
        for name in ("a", "b", "c"):
            answer = await sessions.step(
                ref(name), n, gradient, Asked(), generation=None, want_params=False
            )
            assert answer.receipt.position == n
            assert hot(sessions) == [name]
    params = [(await sessions.params(ref(name))).tensors["w"] for name in ("a", "b", "c")]
    assert bytes(params[0].data) == bytes(params[1].data) == bytes(params[2].data)


async def test_a_session_in_use_is_not_evicted() -> None:
    sessions = await three(2 * SIZE)
    async with sessions._hot.use(ref("a")), sessions._hot.use(ref("b")):
        with pytest.raises(MemoryExhausted, match="leaves 0"):
            await sessions.view(ref("c"))
        assert hot(sessions) == ["a", "b"]
    assert (await sessions.view(ref("c"))).id == "c"
    assert hot(sessions) == ["b", "c"]


async def test_a_session_that_can_never_fit_is_refused_and_not_created() -> None:
    sessions = opened(MemoryStore(), SIZE - 1)
    with pytest.raises(MemoryExhausted, match=f"takes {SIZE} bytes"):
        await sessions.create(ref("a"), ADAM, PARAMS)
    with pytest.raises(SessionNotFound):
        await sessions.view(ref("a"))
    await sessions.create(ref("a"), ADAM, None)
    with pytest.raises(MemoryExhausted):
        await sessions.set_params(ref("a"), PARAMS, generation=None)
    small = await sessions.set_params(ref("a"), {"w": packed([1.0])}, generation=None)
    assert small.shapes == {"w": (1,)}


async def test_a_session_that_does_not_fit_now_is_not_lost() -> None:
    sessions = await three(2 * SIZE)
    gate = asyncio.Event()

    async def keep(name: str) -> None:
        async with sessions._hot.use(ref(name)):
            await gate.wait()

    users = [asyncio.create_task(keep(name)) for name in ("b", "c")]
    await asyncio.sleep(0)
    gradient = packed_all({"w": np.ones(100)})
    with pytest.raises(MemoryExhausted):
        await sessions.step(ref("a"), 1, gradient, Asked(), generation=None, want_params=False)
    gate.set()
    await asyncio.gather(*users)
    answer = await sessions.step(ref("a"), 1, gradient, Asked(), generation=None, want_params=False)
    assert (answer.receipt.position, answer.receipt.replayed) == (1, False)


async def test_a_session_that_does_not_exist_keeps_no_place() -> None:
    sessions = await three(3 * SIZE)
    for name in ("x", "y"):
        with pytest.raises(SessionNotFound):
            await sessions.view(ref(name))
    await sessions.delete(ref("b"), version=None)
    assert [name for _, name in sessions._hot._all] == ["a", "c"]


async def test_a_deleted_session_frees_its_memory() -> None:
    sessions = await three(3 * SIZE)
    await sessions.delete(ref("c"), version=None)
    await sessions.create(ref("d"), ADAM, PARAMS)
    assert hot(sessions) == ["a", "b", "d"]


async def test_what_can_never_fit_evicts_nothing() -> None:
    sessions = await three(3 * SIZE)
    with pytest.raises(MemoryExhausted):
        await sessions.create(ref("d"), ADAM, packed_all({"w": np.zeros(400)}))
    assert hot(sessions) == ["a", "b", "c"]


async def test_of_two_that_are_filled_at_once_one_is_refused_and_nothing_goes_uncounted() -> None:
    sessions = opened(SlowStore(), SIZE)
    for name in ("a", "b"):
        await sessions.create(ref(name), ADAM, None)
    filling = (sessions.set_params(ref(name), PARAMS, generation=None) for name in ("a", "b"))
    answers = await asyncio.gather(*filling, return_exceptions=True)
    assert [type(answer) for answer in answers] == [View, MemoryExhausted]
    assert {hot.ref[1]: hot.nbytes for hot in sessions._hot._all.values()} == {"a": SIZE, "b": 0}
    assert (await sessions.view(ref("b"))).seq == 0


async def test_a_patch_that_takes_a_slot_is_counted() -> None:
    sessions = opened(MemoryStore(), SIZE)
    await sessions.create(ref("a"), config({"type": "SGD"}), packed_all({"w": np.zeros(200)}))
    bigger = ConfigPatch.model_validate({"optimizer": {"momentum": 0.9}})
    with pytest.raises(MemoryExhausted):
        await sessions.patch(ref("a"), bigger, generation=None, version=None)
    assert (await sessions.view(ref("a"))).seq == 1


async def test_a_session_that_is_too_large_is_refused_before_it_is_rebuilt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    await opened(store, SIZE).create(ref("a"), ADAM, PARAMS)

    def fill(*_: object) -> None:
        raise AssertionError("its arrays were made")

    monkeypatch.setattr(State, "fill", fill)
    with pytest.raises(MemoryExhausted):
        await opened(store, SIZE - 1).view(ref("a"))
