"""What `sessions.store` promises of snapshots, trimming, deleting and idling, for every store."""

from __future__ import annotations

import asyncio
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

from gradstep_server.sessions.errors import IdTaken, SequenceTaken, SessionCorrupt
from gradstep_server.sessions.store import Head, Store

pytestmark = pytest.mark.anyio

MIB = 2**20


async def test_the_newest_snapshot_is_returned_and_a_kept_one_stays(store: Store) -> None:
    session = await started(store, steps=9)
    for seq, text in ((3, b"three"), (9, b"nine"), (6, b"six"), (9, b"NINE")):
        body = [memoryview(text)]
        await store.put_snapshot(session.key, snapshot(seq, body, record=text), body)

    kept = await store.snapshot(session.key)

    assert kept is not None
    assert kept[0] == snapshot(9, [memoryview(b"nine")], record=b"nine")
    assert bytes(kept[1]) == b"nine"


@pytest.mark.parametrize("snapshots", [(), (5,)])
async def test_trim_keeps_all_before_there_are_two_snapshots(
    store: Store, snapshots: tuple[int, ...]
) -> None:
    session = await started(store, steps=8)
    for seq in snapshots:
        await store.put_snapshot(session.key, snapshot(seq), ())

    await store.trim(session.key)

    assert await replayed(store, session.key) == expected_log(1, 8)


async def test_trim_drops_bodies_up_to_the_second_newest_snapshot(store: Store) -> None:
    session = await started(store, steps=8)
    for seq in (2, 4, 7):
        body = random_body(seq, 2 * MIB)
        await store.put_snapshot(session.key, snapshot(seq, body), body)

    await store.trim(session.key)
    await store.trim(session.key)

    assert await replayed(store, session.key, after=4) == expected_log(5, 8)
    for seq in range(1, 9):
        assert await store.at(session.key, seq) == entry(seq, step_body(seq))
    assert await store.find(session.key, "step", 1) == entry(1, step_body(1))
    assert len(await store.history(session.key, "step", 0, 100)) == 8
    with pytest.raises(SessionCorrupt, match=r"Entry 4 .*trimmed"):
        await replayed(store, session.key, after=3)
    kept = await store.snapshot(session.key)
    assert kept is not None
    assert kept[0].seq == 7
    assert bytes(kept[1]) == joined(random_body(7, 2 * MIB))


async def test_a_trimmed_log_goes_on(store: Store) -> None:
    session = await started(store, steps=6)
    for seq in (2, 4):
        await store.put_snapshot(session.key, snapshot(seq), ())
    await store.trim(session.key)

    await grow(store, session.key, 7, 9)
    await store.put_snapshot(session.key, snapshot(8), ())
    await store.trim(session.key)

    assert await replayed(store, session.key, after=4) == expected_log(5, 9)
    with pytest.raises(SessionCorrupt):
        await replayed(store, session.key, after=2)


async def test_many_small_bodies_are_trimmed_in_one_call(store: Store) -> None:
    session = await started(store, steps=600)
    for seq in (599, 600):
        await store.put_snapshot(session.key, snapshot(seq), ())

    await store.trim(session.key)

    assert await replayed(store, session.key, after=599) == expected_log(600, 600)
    with pytest.raises(SessionCorrupt, match="Entry 599 "):
        await replayed(store, session.key, after=598)


@pytest.mark.parametrize("steps", [0, 3])
async def test_a_delete_at_another_sequence_is_refused(store: Store, steps: int) -> None:
    session = await started(store, steps=steps)

    with pytest.raises(SequenceTaken) as refusal:
        await store.delete(session, steps + 1)

    assert refusal.value.head == steps
    assert await store.load("alice", "a") == session
    assert await store.list("alice", "", 10) != []
    await grow(store, session.key, steps + 1, steps + 1)
    assert (await store.head(session.key)).seq == steps + 1


@pytest.mark.parametrize("steps", [0, 3])
async def test_a_deleted_session_is_gone_but_its_id_stays_taken(store: Store, steps: int) -> None:
    session = await started(store, steps=steps)

    await store.delete(session, steps)
    await store.delete(session, steps)
    await store.delete(session, steps + 5)

    deleted = await store.load("alice", "a")
    assert deleted is not None
    assert deleted.deleted_at is not None
    assert replace(deleted, deleted_at=None) == session
    assert await store.list("alice", "", 10) == []
    assert await store.idle_since(NOON * 2, 10) == []
    with pytest.raises(IdTaken) as refusal:
        await store.create(header(), None, ())
    assert refusal.value.header == deleted


@pytest.mark.parametrize("steps", [0, 3])
async def test_a_deleted_log_reads_as_empty_and_takes_nothing(store: Store, steps: int) -> None:
    session = await started(store, steps=steps)
    await store.delete(session, steps)

    for seq in (1, steps + 1):
        with pytest.raises(SequenceTaken):
            await store.append(session.key, entry(seq), ())
    await store.put_snapshot(session.key, snapshot(steps), ())
    await store.trim(session.key)

    assert (await store.head(session.key)).seq == 0
    assert await replayed(store, session.key) == []
    assert await store.snapshot(session.key) is None
    assert await store.find(session.key, "step", 1) is None
    assert list(await store.history(session.key, "step", 0, 10)) == []


async def test_of_an_append_and_a_delete_that_race_exactly_one_wins(store: Store) -> None:
    for number in range(20):
        session = await started(store, f"s{number}", steps=number % 2)
        seq = number % 2
        body = step_body(seq + 1)

        appended, deleted = await asyncio.gather(
            store.append(session.key, entry(seq + 1, body), body),
            store.delete(session, seq),
            return_exceptions=True,
        )

        loaded = await store.load("alice", session.id)
        assert loaded is not None
        if appended is None:
            assert isinstance(deleted, SequenceTaken)
            assert loaded.deleted_at is None
            assert (await store.head(session.key)).seq == seq + 1
        else:
            assert isinstance(appended, SequenceTaken)
            assert deleted is None
            assert loaded.deleted_at is not None


async def test_idle_sessions_are_those_without_a_recent_entry(store: Store) -> None:
    busy = await started(store, "busy", steps=50)
    idle = await started(store, "idle", steps=5)
    await store.create(other := header("idle", tenant="bob"), None, ())
    await store.create(header("new", created_at=NOON + 100), None, ())

    found = await store.idle_since(NOON + 20, 10)

    assert {(session.tenant, session.id) for session, _ in found} == {
        ("alice", "idle"),
        ("bob", "idle"),
    }
    heads = {session.key: head for session, head in found}
    assert heads == {idle.key: Head(5, 5, NOON + 5.1), other.key: Head(0, 0, NOON)}
    assert len(await store.idle_since(NOON + 20, 1)) == 1
    assert busy.key in {session.key for session, _ in await store.idle_since(NOON + 60, 10)}
