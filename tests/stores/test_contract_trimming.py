"""What `sessions.store` promises of trimming, for every store."""

from __future__ import annotations

import asyncio

import pytest
from store_logs import (
    entry,
    expected_log,
    grow,
    head,
    joined,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Store

pytestmark = pytest.mark.anyio

MIB = 2**20


@pytest.mark.parametrize("oldest", [0, 1, 5, 8, 9])
async def test_trim_to_a_snapshot_that_is_not_kept_drops_nothing(store: Store, oldest: int) -> None:
    session = await started(store, steps=8)
    for seq in (2, 4, 7):
        await put_snapshot(store, session.key, snapshot(seq))

    await store.trim(session.key, oldest)

    assert await replayed(store, session.key) == expected_log(1, 8)
    assert [seq for seq, _ in await store.snapshots(session.key)] == [2, 4, 7]
    assert await store.head(session.key) == head(8)


async def test_trim_drops_older_snapshots_and_the_bodies_up_to_the_base(store: Store) -> None:
    session = await started(store, steps=8)
    for seq in (2, 6, 7):
        body = random_body(seq, 2 * MIB)
        await put_snapshot(store, session.key, snapshot(seq, body, base=seq - 2), body)

    await store.trim(session.key, 6)
    await store.trim(session.key, 6)
    await store.trim(session.key, 2)

    assert list(await store.snapshots(session.key)) == [(6, 4), (7, 5)]
    assert await store.head(session.key) == head(8, trimmed=4)
    assert await replayed(store, session.key, after=4) == expected_log(5, 8)
    assert await replayed(store, session.key, 5, 6) == expected_log(6, 6)
    with pytest.raises(SessionCorrupt, match=r"Entry 4 .*trimmed"):
        await replayed(store, session.key, after=3)
    for seq in (6, 7):
        kept = await store.snapshot(session.key, seq)
        assert kept is not None
        assert bytes(kept[1]) == joined(random_body(seq, 2 * MIB))


async def test_the_entries_of_a_trimmed_log_stay(store: Store) -> None:
    session = await started(store, steps=8)
    await put_snapshot(store, session.key, snapshot(6))
    await store.trim(session.key, 6)

    for seq in range(1, 9):
        assert await store.at(session.key, seq) == entry(seq, step_body(seq))
    assert await store.find(session.key, "step", 1) == entry(1, step_body(1))
    assert await store.newest(session.key, "step", 3) == entry(3, step_body(3))
    assert len(await store.history(session.key, "step", 0, 8, 100)) == 8


async def test_a_trim_never_takes_back_what_an_earlier_one_dropped(store: Store) -> None:
    session = await started(store, steps=8)
    await put_snapshot(store, session.key, snapshot(5))
    await put_snapshot(store, session.key, snapshot(7, base=3))

    await store.trim(session.key, 5)
    await store.trim(session.key, 7)

    assert await store.head(session.key) == head(8, trimmed=5)
    assert await replayed(store, session.key, after=5) == expected_log(6, 8)


async def test_a_trimmed_log_goes_on(store: Store) -> None:
    session = await started(store, steps=6)
    await put_snapshot(store, session.key, snapshot(4))
    await store.trim(session.key, 4)

    await grow(store, session.key, 7, 9)
    await put_snapshot(store, session.key, snapshot(8))
    await store.trim(session.key, 8)

    assert await replayed(store, session.key, after=8) == expected_log(9, 9)
    assert await store.head(session.key) == head(9, trimmed=8)
    with pytest.raises(SessionCorrupt):
        await replayed(store, session.key, after=6)


async def test_many_small_bodies_are_trimmed_in_one_call(store: Store) -> None:
    session = await started(store, steps=600)
    await put_snapshot(store, session.key, snapshot(599))

    await store.trim(session.key, 599)

    assert await replayed(store, session.key, after=599) == expected_log(600, 600)
    with pytest.raises(SessionCorrupt, match="Entry 599 "):
        await replayed(store, session.key, after=598)


async def test_steps_and_trims_may_meet(writers: list[Store]) -> None:
    session = await started(writers[0], steps=300)
    await put_snapshot(writers[0], session.key, snapshot(299))

    await asyncio.gather(
        *(store.trim(session.key, 299) for store in writers),
        grow(writers[0], session.key, 301, 320),
    )

    for store in writers:
        assert await store.head(session.key) == head(320, trimmed=299)
        assert await replayed(store, session.key, after=299) == expected_log(300, 320)
