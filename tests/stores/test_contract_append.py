"""What `sessions.store` promises of an append, whoever else appends, for every store."""

from __future__ import annotations

import asyncio

import pytest
from store_logs import (
    EMPTY,
    append,
    entry,
    expected_log,
    grow,
    head,
    joined,
    random_body,
    replayed,
    seal_of,
    started,
    step_body,
)

from gradstep_server.sessions.errors import SequenceTaken
from gradstep_server.sessions.store import Body, Store

pytestmark = pytest.mark.anyio

MIB = 2**20


async def test_entries_come_back_as_they_were_appended(store: Store) -> None:
    session = await started(store, steps=12)

    assert await replayed(store, session.key) == expected_log(1, 12)
    assert await store.at(session.key, 7) == entry(7, step_body(7))
    assert await store.head(session.key) == head(12)


@pytest.mark.parametrize("seq", [0, 1, 3, 5, 6, 1000])
async def test_an_entry_that_does_not_extend_the_log_by_one_is_refused(
    store: Store, seq: int
) -> None:
    session = await started(store, steps=3)

    for after in (seal_of(3), seal_of(seq - 1)):
        with pytest.raises(SequenceTaken) as refusal:
            await store.append(session.key, entry(seq), (), after=after)
        assert refusal.value.head == 3

    assert await replayed(store, session.key) == expected_log(1, 3)


@pytest.mark.parametrize("synced", [True, False])
@pytest.mark.parametrize("size", [10, 2 * MIB])
@pytest.mark.parametrize("after", [b"", seal_of(2), seal_of(4), b"\xff" * 32, seal_of(3)[:-1]])
async def test_an_entry_with_the_right_number_behind_another_log_is_refused(
    store: Store, after: bytes, size: int, synced: bool
) -> None:
    session, body = await started(store, steps=3), random_body(4, size)

    with pytest.raises(SequenceTaken) as refusal:
        await store.append(session.key, entry(4, body), body, after=after, synced=synced)

    assert refusal.value.head == 3
    assert await store.head(session.key) == head(3)
    await append(store, session.key, entry(4, body), body, synced=synced)
    assert await replayed(store, session.key, after=3) == [(entry(4, body), joined(body))]


async def test_the_first_entry_of_an_empty_log_is_entry_one_behind_nothing(store: Store) -> None:
    session = await started(store)

    for seq, after in ((2, b""), (2, seal_of(1)), (1, seal_of(1))):
        with pytest.raises(SequenceTaken) as refusal:
            await store.append(session.key, entry(seq), (), after=after)
        assert refusal.value.head == 0

    assert await store.head(session.key) == EMPTY
    await grow(store, session.key, 1, 1)
    assert await store.head(session.key) == head(1)


@pytest.mark.parametrize(("size", "rounds", "racers"), [(10, 20, 64), (2 * MIB, 2, 16)])
async def test_of_many_racing_appends_exactly_one_wins(
    writers: list[Store], size: int, rounds: int, racers: int
) -> None:
    session = await started(writers[0])
    padding, after = memoryview(bytes(size)), b""
    for seq in range(1, rounds + 1):
        bodies: list[Body] = [[memoryview(bytes([racer])), padding] for racer in range(racers)]
        entries = [
            entry(seq, body, seal=bytes([racer + 1]) * 32) for racer, body in enumerate(bodies)
        ]
        outcomes = await asyncio.gather(
            *(
                writers[racer % len(writers)].append(
                    session.key, entries[racer], body, after=after, synced=racer % 2 == 0
                )
                for racer, body in enumerate(bodies)
            ),
            return_exceptions=True,
        )
        [winner] = [racer for racer, outcome in enumerate(outcomes) if isinstance(outcome, bool)]
        losses = [outcome for outcome in outcomes if isinstance(outcome, SequenceTaken)]

        assert [loss.head for loss in losses] == [seq] * (racers - 1)
        after = entries[winner].seal
        for store in writers:
            assert await replayed(store, session.key, after=seq - 1) == [
                (entries[winner], joined(bodies[winner]))
            ]


async def test_each_of_64_writers_that_try_again_gets_its_entry_in_once(
    writers: list[Store],
) -> None:
    session = await started(writers[0])

    async def get_in(writer: int) -> int:
        store, body = writers[writer % len(writers)], [memoryview(bytes([writer]))]
        for _ in range(1000):
            stands = await store.head(session.key)
            try:
                added = entry(stands.seq + 1, body)
                await store.append(session.key, added, body, after=stands.seal)
            except SequenceTaken:
                continue
            return added.seq
        raise AssertionError(f"writer {writer} never got in")

    places = await asyncio.gather(*(get_in(writer) for writer in range(64)))

    assert sorted(places) == list(range(1, 65))
    log = [body for _, body in await replayed(writers[0], session.key)]
    assert log == [bytes([places.index(seq)]) for seq in range(1, 65)]


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
        (40 * MIB,),
        pytest.param((1, 300 * MIB, 1), marks=pytest.mark.slow),
    ],
    ids=lambda sizes: f"{len(sizes)}x{sum(sizes)}",
)
async def test_bodies_of_any_size_come_back_bit_for_bit(
    store: Store, sizes: tuple[int, ...]
) -> None:
    session = await started(store)
    body = random_body(1, *sizes)

    await append(store, session.key, entry(1, body), body)

    assert await replayed(store, session.key) == [(entry(1, body), joined(body))]


async def test_a_buffer_may_be_used_again_after_the_call(store: Store) -> None:
    session = await started(store)
    buffer = bytearray(b"first" * 1000)
    view = [memoryview(buffer)]
    await append(store, session.key, entry(1, view), view)

    buffer[:] = b"other" * 1000

    assert await replayed(store, session.key) == [(entry(1, view), b"first" * 1000)]


async def test_a_body_of_another_size_than_stated_is_a_defect(store: Store) -> None:
    session = await started(store)

    with pytest.raises(ValueError, match="has 3 bytes, its record says 0"):
        await append(store, session.key, entry(1), [memoryview(b"abc")])

    assert await store.head(session.key) == EMPTY
