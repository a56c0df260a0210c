"""The store in memory copies large bodies beside the event loop, and is atomic all the same."""

from __future__ import annotations

import asyncio

import pytest
from store_logs import append, entry, head, joined, random_body, replayed, seal_of, started

from gradstep_server.sessions.errors import SequenceTaken
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

LARGE = 32 * 2**20


async def test_others_run_while_a_large_body_is_copied() -> None:
    store = MemoryStore()
    session, body = await started(store, steps=3), random_body(4, LARGE)
    copying = asyncio.create_task(append(store, session.key, entry(4, body), body))

    await asyncio.sleep(0)
    assert not copying.done()
    assert await store.head(session.key) == head(3)

    await copying
    assert await replayed(store, session.key, after=3) == [(entry(4, body), joined(body))]


async def test_of_two_bodies_that_are_copied_at_once_one_becomes_the_next_entry() -> None:
    store = MemoryStore()
    session = await started(store, steps=3)
    bodies = [random_body(number, LARGE) for number in (4, 5)]

    taken = await asyncio.gather(
        *(store.append(session.key, entry(4, b), b, after=seal_of(3)) for b in bodies),
        return_exceptions=True,
    )

    assert sorted(map(type, taken), key=str) == [bool, SequenceTaken]
    kept = bodies[taken.index(True)]
    assert await replayed(store, session.key, after=3) == [(entry(4, kept), joined(kept))]


async def test_a_session_that_is_deleted_meanwhile_takes_no_entry() -> None:
    store = MemoryStore()
    session, body = await started(store, steps=3), random_body(4, LARGE)
    copying = asyncio.create_task(append(store, session.key, entry(4, body), body))
    await asyncio.sleep(0)

    await store.delete(session, 3)

    with pytest.raises(SequenceTaken):
        await copying
    assert await store.usage() == {}
