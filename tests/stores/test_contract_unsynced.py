"""What `sessions.store` promises of appends that may be synced later, for every store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_logs import append, entry, expected_log, grow, head, replayed, started, step_body
from store_media import Medium

from gradstep_server.sessions.store import Head, Store

pytestmark = pytest.mark.anyio


async def test_an_unsynced_entry_is_in_the_log_at_once(writers: list[Store]) -> None:
    session = await started(writers[0])
    for seq in range(1, 9):
        await grow(writers[seq % len(writers)], session.key, seq, seq, synced=False)

        for store in writers:
            assert await store.head(session.key) == head(seq)
            assert await replayed(store, session.key, after=seq - 1) == expected_log(seq, seq)
    assert [stands for _, stands in await writers[0].list("alice", "", 10)] == [head(8)]


async def test_the_first_entry_of_a_burst_is_synced(writers: list[Store]) -> None:
    first, other = writers[0], writers[-1]
    session = await started(first)

    assert (await grow(first, session.key, 1, 3, synced=False))[0]
    await other.sync(session.key)
    await other.sync(session.key)
    assert (await grow(first, session.key, 4, 6, synced=False))[0]
    assert await grow(other, session.key, 7, 7) == [True]
    assert (await grow(first, session.key, 8, 9, synced=False))[0]


async def test_a_synced_entry_says_so_whatever_came_before(store: Store) -> None:
    session = await started(store)

    await grow(store, session.key, 1, 3, synced=False)

    assert await grow(store, session.key, 4, 6) == [True, True, True]


async def test_unsynced_entries_survive_the_end_of_the_process(
    make_durable: Callable[[], Store],
) -> None:
    first = make_durable()
    await first.open()
    session = await started(first)
    await grow(first, session.key, 1, 5, synced=False)
    await first.close()

    second = make_durable()
    await second.open()
    assert await second.head(session.key) == head(5)
    assert await replayed(second, session.key) == expected_log(1, 5)
    await second.close()


async def stands(store: Store, key: str) -> Head:
    """Return the head of a log that is found to be dense up to it."""
    found = await store.head(key)
    assert await replayed(store, key) == expected_log(1, found.seq)
    return found


async def test_a_medium_that_ends_takes_no_more_than_what_was_not_synced(medium: Medium) -> None:
    store = await medium.open()
    synced, later, made_up = [await started(store, name) for name in "abc"]
    await grow(store, synced.key, 1, 6)
    assert await grow(store, later.key, 1, 6, synced=False) == [True, *[False] * 5]
    await grow(store, made_up.key, 1, 6, synced=False)
    await store.sync(made_up.key)

    store = await medium.crash()

    assert await stands(store, synced.key) == head(6)
    assert await stands(store, made_up.key) == head(6)
    left = await stands(store, later.key)
    assert 1 <= left.seq <= 6
    assert left == head(left.seq, suspect=True)
    listed = {session.id: found for session, found in await store.list("alice", "", 10)}
    assert listed == {"a": head(6), "b": left, "c": head(6)}


async def test_only_an_entry_that_is_appended_synced_ends_suspicion(medium: Medium) -> None:
    store = await medium.open()
    session = await started(store)
    await grow(store, session.key, 1, 2, synced=False)
    store = await medium.crash()
    seq = (await stands(store, session.key)).seq

    for _ in range(3):
        seq += 1
        assert await append(
            store, session.key, entry(seq, body := step_body(seq)), body, synced=False
        )
        await store.sync(session.key)
        assert await stands(store, session.key) == head(seq, suspect=True)
    store = await medium.crash()
    assert await stands(store, session.key) == head(seq, suspect=True)

    assert await grow(store, session.key, seq + 1, seq + 1) == [True]
    assert await stands(store, session.key) == head(seq + 1)
    assert await grow(store, session.key, seq + 2, seq + 3, synced=False) == [True, False]
    assert await stands(store, session.key) == head(seq + 3)
