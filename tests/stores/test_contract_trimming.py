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
    seal_of,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt
from gradstep_server.sessions.store import Basis, Store

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


async def test_what_a_newer_snapshot_is_followed_by_is_not_trimmed(store: Store) -> None:
    session = await started(store, steps=8)
    await put_snapshot(store, session.key, snapshot(5))
    await put_snapshot(store, session.key, snapshot(7, base=3))

    await store.trim(session.key, 5)
    await store.trim(session.key, 7)

    assert await store.head(session.key) == head(8, trimmed=3)
    assert await replayed(store, session.key, after=3) == expected_log(4, 8)


async def test_a_snapshot_whose_followers_are_trimmed_is_not_kept(store: Store) -> None:
    session = await started(store, steps=8)
    body = random_body(1, 2 * MIB)
    await put_snapshot(store, session.key, snapshot(6))
    async with store.snapshot_writer(session.key) as late:
        for piece in body:
            await late.write(piece)
        await store.trim(session.key, 6)
        await late.commit(snapshot(8, body, base=5))

    assert list(await store.snapshots(session.key)) == [(6, 6)]
    await put_snapshot(store, session.key, snapshot(8, base=6))
    await store.trim(session.key, 8)
    assert await store.head(session.key) == head(8, trimmed=6)


@pytest.mark.parametrize(
    ("basis", "is_kept"),
    [
        (Basis(None, 0), False),
        (Basis(None, 3), False),
        (Basis(None, 4), True),
        (Basis(2, 4), False),
        (Basis(3, 4), False),
        (Basis(6, 3), False),
        (Basis(6, 4), True),
        (Basis(7, 5), True),
    ],
)
async def test_a_rewind_is_refused_where_its_basis_is_trimmed(
    store: Store, basis: Basis, *, is_kept: bool
) -> None:
    session = await started(store, steps=8)
    for kept in (snapshot(2), snapshot(6, base=4), snapshot(7, base=5)):
        await put_snapshot(store, session.key, kept)
    await store.trim(session.key, 6)
    rewind = entry(9, kind="rewind", n=7)
    if is_kept:
        assert await store.append(session.key, rewind, (), after=seal_of(8), basis=basis)
    else:
        with pytest.raises(SequenceTaken):
            await store.append(session.key, rewind, (), after=seal_of(8), basis=basis)

    assert (await store.head(session.key)).seq == 8 + is_kept
    with pytest.raises(SequenceTaken):  # the seal is looked at as ever
        await store.append(session.key, entry(10 - (not is_kept)), (), after=b"", basis=basis)


async def test_trims_and_rewinds_that_meet_lose_no_basis(writers: list[Store]) -> None:
    session = await started(writers[0], steps=40)
    for seq in (10, 20, 30, 40):
        await put_snapshot(writers[0], session.key, snapshot(seq))

    async def rewind() -> None:
        for seq in range(41, 61):
            going_back = entry(seq, kind="rewind", n=20)
            await writers[0].append(
                session.key, going_back, (), after=seal_of(seq - 1), basis=Basis(20, 20)
            )
            await writers[0].trim(session.key, 20, rewound=seq)

    async def trim(store: Store) -> None:
        for _ in range(20):
            await store.trim(session.key, 30, rewound=0)

    outcomes = await asyncio.gather(
        rewind(), *(trim(store) for store in writers[1:]), return_exceptions=True
    )

    kept = [seq for seq, _ in await writers[0].snapshots(session.key)]
    if outcomes[0] is None:
        assert kept == [20, 30, 40]
    else:
        assert isinstance(outcomes[0], SequenceTaken)
        assert kept == [30, 40]
        assert (await writers[0].head(session.key)).seq == 40


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
