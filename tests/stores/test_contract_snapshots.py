"""What `sessions.store` promises of snapshots, for every store."""

from __future__ import annotations

import asyncio

import pytest
from store_logs import (
    append,
    entry,
    expected_log,
    joined,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.store import Store

pytestmark = pytest.mark.anyio

MIB = 2**20


class GaveUp(Exception):
    """Raised by a test that leaves a snapshot unfinished."""


async def give_up(store: Store, key: str, part: memoryview) -> None:
    async with store.snapshot_writer(key) as writer:
        await writer.write(part)
        raise GaveUp


async def write_for_ever(store: Store, key: str, part: memoryview) -> None:
    async with store.snapshot_writer(key) as writer:
        await writer.write(part)
        await asyncio.Event().wait()


async def test_snapshots_are_listed_oldest_first_and_kept_as_they_were_written(
    store: Store,
) -> None:
    session = await started(store, steps=9)
    for seq, base, text in ((3, 2, b"three"), (9, 4, b"nine"), (6, 6, b"six")):
        body = [memoryview(text)]
        await put_snapshot(store, session.key, snapshot(seq, body, base=base, record=text), body)

    assert list(await store.snapshots(session.key)) == [(3, 2), (6, 6), (9, 4)]
    for seq, base, text in ((3, 2, b"three"), (9, 4, b"nine"), (6, 6, b"six")):
        kept = await store.snapshot(session.key, seq)
        assert kept is not None
        assert kept[0] == snapshot(seq, [memoryview(text)], base=base, record=text)
        assert bytes(kept[1]) == text
    assert await store.snapshot(session.key, 4) is None


async def test_of_two_snapshots_of_one_entry_the_first_stays(store: Store) -> None:
    session = await started(store, steps=9)
    for base, text in ((7, b"first"), (8, b"second")):
        body = [memoryview(text * MIB)]
        await put_snapshot(store, session.key, snapshot(9, body, base=base), body)

    assert list(await store.snapshots(session.key)) == [(9, 7)]
    kept = await newest_snapshot(store, session.key)
    assert kept is not None
    assert kept[1] == b"first" * MIB


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_snapshots_of_one_entry_may_be_written_at_once(
    writers: list[Store], size: int
) -> None:
    session = await started(writers[0], steps=2)
    bodies = [random_body(number, size, size) for number in range(8)]

    await asyncio.gather(
        *(
            put_snapshot(writers[number % len(writers)], session.key, snapshot(2, body), body)
            for number, body in enumerate(bodies)
        )
    )

    for store in writers:
        assert list(await store.snapshots(session.key)) == [(2, 2)]
        kept = await newest_snapshot(store, session.key)
        assert kept is not None
        assert kept[1] in [joined(body) for body in bodies]


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
        (30 * MIB, 10 * MIB),
        pytest.param((1, 300 * MIB, 1), marks=pytest.mark.slow),
    ],
    ids=lambda sizes: f"{len(sizes)}x{sum(sizes)}",
)
async def test_snapshots_of_any_size_come_back_bit_for_bit(
    store: Store, sizes: tuple[int, ...]
) -> None:
    session, body = await started(store, steps=1), random_body(1, *sizes)

    await put_snapshot(store, session.key, snapshot(1, body), body)

    kept = await newest_snapshot(store, session.key)
    assert kept == (snapshot(1, body), joined(body))


@pytest.mark.parametrize("size", [1000, 2 * MIB])
async def test_a_piece_may_change_once_it_is_written(store: Store, size: int) -> None:
    session, buffer = await started(store, steps=1), bytearray(size)
    whole = b"".join(bytes([number]) * size for number in range(1, 4))

    async with store.snapshot_writer(session.key) as writer:
        for number in range(1, 4):
            buffer[:] = bytes([number]) * size
            await writer.write(memoryview(buffer))
        buffer[:] = bytes(size)
        await writer.commit(snapshot(1, [memoryview(whole)]))

    kept = await newest_snapshot(store, session.key)
    assert kept == (snapshot(1, [memoryview(whole)]), whole)


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_steps_go_on_while_a_snapshot_is_written(store: Store, size: int) -> None:
    session, parts = await started(store, steps=2), random_body(1, *[size] * 4)
    long = {seq: random_body(seq, 2 * MIB) for seq in (3, 5)}

    async with store.snapshot_writer(session.key) as writer:
        for seq, part in enumerate(parts, start=3):
            await asyncio.gather(
                writer.write(part),
                append(store, session.key, entry(seq, body := long.get(seq, [])), body),
            )
            assert list(await store.snapshots(session.key)) == []
        await writer.commit(snapshot(6, parts, base=2))

    assert await newest_snapshot(store, session.key) == (
        snapshot(6, parts, base=2),
        joined(parts),
    )
    assert await replayed(store, session.key, after=2) == [
        (entry(seq, body), joined(body)) for seq in range(3, 7) for body in [long.get(seq, [])]
    ]


@pytest.mark.parametrize("size", [0, 10, 5 * MIB])
async def test_a_snapshot_without_its_commit_is_not_kept(store: Store, size: int) -> None:
    session, [part] = await started(store, steps=3), random_body(1, size)

    async with store.snapshot_writer(session.key) as writer:
        await writer.write(part)
    with pytest.raises(GaveUp):
        await give_up(store, session.key, part)
    stuck = asyncio.ensure_future(write_for_ever(store, session.key, part))
    await asyncio.sleep(0.05)
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck

    assert list(await store.snapshots(session.key)) == []
    assert await replayed(store, session.key) == expected_log(1, 3)
    await put_snapshot(store, session.key, snapshot(3, [part]), [part])
    assert await newest_snapshot(store, session.key) == (snapshot(3, [part]), joined([part]))


async def test_a_snapshot_that_is_cancelled_at_any_moment_is_whole_or_not_kept(
    store: Store,
) -> None:
    session, parts = await started(store, steps=10), random_body(1, *[MIB] * 4)
    for seq in range(1, 11):
        writing = asyncio.ensure_future(
            put_snapshot(store, session.key, snapshot(seq, parts), parts)
        )
        await asyncio.sleep(0.004 * seq)
        writing.cancel()
        await asyncio.wait([writing])

    for seq, _ in await store.snapshots(session.key):
        kept = await store.snapshot(session.key, seq)
        assert kept is not None
        assert bytes(kept[1]) == joined(parts)
    await put_snapshot(store, session.key, snapshot(10, parts), parts)
    assert await newest_snapshot(store, session.key) == (snapshot(10, parts), joined(parts))


async def test_a_snapshot_of_another_size_than_stated_is_a_defect(store: Store) -> None:
    session = await started(store, steps=1)

    with pytest.raises(ValueError, match="has 3 bytes, its record says 0"):
        await put_snapshot(store, session.key, snapshot(1), [memoryview(b"abc")])

    assert list(await store.snapshots(session.key)) == []
