"""What `sessions.store` promises, held against every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from store_logs import (
    NOON,
    entry,
    expected_log,
    grow,
    header,
    joined,
    random_body,
    replayed,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import IdTaken, SequenceTaken
from gradstep_server.sessions.store import Head, Store

pytestmark = pytest.mark.anyio

MIB = 2**20


async def test_an_empty_log_stands_at_zero_since_its_creation(store: Store) -> None:
    session = await started(store)

    assert await store.head(session.key) == Head(seq=0, step=0, updated_at=NOON)
    assert await replayed(store, session.key) == []
    assert await store.at(session.key, 1) is None
    assert await store.find(session.key, "step", 1) is None
    assert await store.snapshot(session.key) is None


async def test_entries_come_back_as_they_were_appended(store: Store) -> None:
    session = await started(store, steps=12)

    assert await replayed(store, session.key) == expected_log(1, 12)
    assert await replayed(store, session.key, after=9) == expected_log(10, 12)
    assert await replayed(store, session.key, after=12) == []
    assert await store.at(session.key, 7) == entry(7, step_body(7))
    assert await store.head(session.key) == Head(12, 12, NOON + 12.1)


@pytest.mark.parametrize("seq", [0, 1, 3, 5, 6, 1000])
async def test_an_entry_that_does_not_extend_the_log_by_one_is_refused(
    store: Store, seq: int
) -> None:
    session = await started(store, steps=3)

    with pytest.raises(SequenceTaken) as refusal:
        await store.append(session.key, entry(seq), ())

    assert refusal.value.head == 3
    assert await replayed(store, session.key) == expected_log(1, 3)


async def test_the_first_entry_of_an_empty_log_must_be_entry_one(store: Store) -> None:
    session = await started(store)

    with pytest.raises(SequenceTaken) as refusal:
        await store.append(session.key, entry(2), ())

    assert refusal.value.head == 0
    assert await store.head(session.key) == Head(0, 0, NOON)


@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_of_many_racing_appends_exactly_one_wins(store: Store, size: int) -> None:
    session = await started(store)
    rounds, racers = (20, 64) if size < MIB else (2, 8)
    padding = memoryview(bytes(size))
    for seq in range(1, rounds + 1):
        bodies = [[memoryview(bytes([racer])), padding] for racer in range(racers)]
        outcomes = await asyncio.gather(
            *(store.append(session.key, entry(seq, body), body) for body in bodies),
            return_exceptions=True,
        )
        winners = [racer for racer, outcome in enumerate(outcomes) if outcome is None]
        losses = [outcome for outcome in outcomes if outcome is not None]

        assert len(winners) == 1
        assert all(isinstance(loss, SequenceTaken) and loss.head == seq for loss in losses)
        [(_, kept)] = await replayed(store, session.key, after=seq - 1)
        assert kept == joined(bodies[winners[0]])


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0, 0),
        (1,),
        (MIB,),
        (MIB + 1,),
        (MIB - 1, 1, 0, MIB, 1),
        (3, 5 * MIB, 17, MIB, 999_999),
        (100,) * 4096,
        (70_000,) * 64,
    ],
    ids=lambda sizes: f"{len(sizes)}x{sum(sizes)}",
)
async def test_bodies_of_any_size_come_back_bit_for_bit(
    store: Store, sizes: tuple[int, ...]
) -> None:
    session = await started(store)
    body = random_body(1, *sizes)

    await store.append(session.key, entry(1, body), body)
    await store.put_snapshot(session.key, snapshot(1, body), body)

    assert await replayed(store, session.key) == [(entry(1, body), joined(body))]
    kept = await store.snapshot(session.key)
    assert kept is not None
    assert kept[0] == snapshot(1, body)
    assert bytes(kept[1]) == joined(body)


async def test_a_buffer_may_be_used_again_after_the_call(store: Store) -> None:
    session = await started(store)
    buffer = bytearray(b"first" * 1000)
    view = [memoryview(buffer)]
    await store.append(session.key, entry(1, view), view)
    await store.put_snapshot(session.key, snapshot(1, view), view)

    buffer[:] = b"other" * 1000

    assert await replayed(store, session.key) == [(entry(1, view), b"first" * 1000)]
    kept = await store.snapshot(session.key)
    assert kept is not None
    assert bytes(kept[1]) == b"first" * 1000


async def test_a_body_of_another_size_than_stated_is_a_defect(store: Store) -> None:
    session = await started(store)

    with pytest.raises(ValueError, match="has 3 bytes, its record says 0"):
        await store.append(session.key, entry(1), [memoryview(b"abc")])

    assert await store.head(session.key) == Head(0, 0, NOON)


async def test_a_session_is_created_with_its_first_entry(store: Store) -> None:
    session, body = header(), random_body(2, 3 * MIB)

    await store.create(session, entry(1, body, kind="init", n=0), body)

    assert await store.load("alice", "a") == session
    assert await replayed(store, session.key) == [(entry(1, body, kind="init", n=0), joined(body))]


async def test_an_id_is_given_once(store: Store) -> None:
    first, second = header(), replace(header(), digest=b"another")
    await store.create(first, None, ())

    with pytest.raises(IdTaken) as refusal:
        await store.create(second, entry(1), ())

    assert refusal.value.header == first
    assert await store.load("alice", "a") == first
    assert await store.head(first.key) == Head(0, 0, NOON)
    assert (await store.head(second.key)).seq == 0


async def test_of_many_racing_creators_exactly_one_wins(store: Store) -> None:
    rivals = [header() for _ in range(16)]
    body = random_body(3, 1000)

    outcomes = await asyncio.gather(
        *(store.create(rival, entry(1, body), body) for rival in rivals), return_exceptions=True
    )

    [winner] = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    losses = [outcome for outcome in outcomes if outcome is not None]
    assert [loss.header for loss in losses if isinstance(loss, IdTaken)] == [winner] * 15
    assert await store.load("alice", "a") == winner
    for rival in rivals:
        assert (await store.head(rival.key)).seq == (1 if rival is winner else 0)


async def test_an_unknown_session_is_none_and_its_log_takes_nothing(store: Store) -> None:
    assert await store.load("alice", "nobody") is None
    with pytest.raises(SequenceTaken):
        await store.append("ab" * 16, entry(1), ())


async def test_sessions_are_listed_by_id_in_pages(store: Store) -> None:
    for session_id in ("b", "c", "a.2", "B", "a", "a-1"):
        await started(store, session_id, steps=1)

    page = await store.list("alice", "", 4)
    rest = await store.list("alice", page[-1][0].id, 4)

    assert [found.id for found, _ in page] == ["B", "a", "a-1", "a.2"]
    assert [found.id for found, _ in rest] == ["b", "c"]
    assert {head for _, head in (*page, *rest)} == {Head(1, 1, NOON + 1.1)}


async def test_a_tenant_sees_only_its_own_sessions(store: Store) -> None:
    mine, theirs = header(tenant="alice"), header(tenant="bob")
    await store.create(mine, None, ())
    await store.create(theirs, None, ())
    await grow(store, theirs.key, 1, 2)

    assert await store.load("alice", "a") == mine
    assert await store.load("bob", "a") == theirs
    assert await store.list("alice", "", 10) == [(mine, Head(0, 0, NOON))]
    assert await store.list("carol", "", 10) == []


async def test_find_returns_the_newest_of_its_kind_and_number(store: Store) -> None:
    session = await started(store)
    log = [("step", 1), ("epoch", 1), ("step", 2), ("step", 1), ("config", 0), ("config", 0)]
    for seq, (kind, n) in enumerate(log, start=1):
        await store.append(session.key, entry(seq, kind=kind, n=n), ())

    assert await store.find(session.key, "step", 1) == entry(4, kind="step", n=1)
    assert await store.find(session.key, "epoch", 1) == entry(2, kind="epoch", n=1)
    assert await store.find(session.key, "config", 0) == entry(6, kind="config", n=0)
    assert await store.find(session.key, "epoch", 2) is None


async def test_history_pages_through_one_kind_by_number(store: Store) -> None:
    session = await started(store)
    for seq in range(1, 21):
        kind, n = ("epoch", seq // 5) if seq % 5 == 0 else ("step", 100 - seq)
        await store.append(session.key, entry(seq, kind=kind, n=n), ())

    epochs = await store.history(session.key, "epoch", 1, 2)
    steps = await store.history(session.key, "step", 0, 100)

    assert [(found.seq, found.n) for found in epochs] == [(10, 2), (15, 3)]
    assert [found.n for found in steps] == sorted(100 - seq for seq in range(1, 21) if seq % 5)
    assert list(await store.history(session.key, "step", 99, 100)) == []


async def test_two_hundred_sessions_are_kept_apart(store: Store) -> None:
    sessions = [await started(store, f"s{number:03}") for number in range(200)]

    async def step_thrice(number: int) -> None:
        for seq in (1, 2, 3):
            body = random_body(number * 10 + seq, 300)
            await store.append(sessions[number].key, entry(seq, body), body)

    await asyncio.gather(*(step_thrice(number) for number in range(200)))

    for number, session in enumerate(sessions):
        bodies = [body for _, body in await replayed(store, session.key)]
        assert bodies == [joined(random_body(number * 10 + seq, 300)) for seq in (1, 2, 3)]
    listed = await store.list("alice", "s049", 100)
    assert [found.id for found, _ in listed] == [f"s{number:03}" for number in range(50, 150)]


async def test_a_durable_store_keeps_everything_across_a_restart(
    make_store: Callable[[], Store],
) -> None:
    first = make_store()
    await first.open()
    stepped = await started(first, "stepped", steps=7)
    deleted = await started(first, "deleted", steps=1)
    await first.delete(deleted, 1)
    body = random_body(4, 3 * MIB)
    await first.put_snapshot(stepped.key, snapshot(7, body), body)
    survives = first.url != "memory://"
    await first.close()

    second = make_store()
    await second.open()
    try:
        assert await second.load("alice", "stepped") == (stepped if survives else None)
        assert await replayed(second, stepped.key) == (expected_log(1, 7) if survives else [])
        assert (await second.load("alice", "deleted") is not None) == survives
        kept = await second.snapshot(stepped.key)
        assert (None if kept is None else bytes(kept[1])) == (joined(body) if survives else None)
    finally:
        await second.close()


async def test_check_passes_on_a_healthy_store(store: Store) -> None:
    await store.check()

    assert store.durability
    assert await store.load("alice", "a") is None
