"""What `sessions.store` promises of deleting and idling, for every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from store_logs import (
    EMPTY,
    NOON,
    append,
    entry,
    grow,
    head,
    header,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import IdTaken, SequenceTaken
from gradstep_server.sessions.store import Store

pytestmark = pytest.mark.anyio

MIB = 2**20


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
@pytest.mark.parametrize("anywhere", [False, True])
async def test_a_deleted_session_is_gone_but_its_id_stays_taken(
    store: Store, steps: int, anywhere: bool
) -> None:
    session = await started(store, steps=steps)

    for seq in (None,) if anywhere else (steps, steps, steps + 5, None):
        await store.delete(session, seq)

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
@pytest.mark.parametrize("anywhere", [False, True])
async def test_a_deleted_log_reads_as_empty_and_takes_nothing(
    store: Store, steps: int, anywhere: bool
) -> None:
    session, body = await started(store, steps=steps), random_body(1, 2 * MIB)
    await store.delete(session, None if anywhere else steps)

    for seq in (1, steps + 1):
        for synced in (True, False):
            with pytest.raises(SequenceTaken):
                await append(store, session.key, entry(seq), synced=synced)
    await put_snapshot(store, session.key, snapshot(steps, body), body)
    await store.trim(session.key, steps)
    await store.sync(session.key)

    assert (await store.head(session.key)).seq == 0
    assert await replayed(store, session.key) == []
    assert list(await store.snapshots(session.key)) == []
    assert await store.snapshot(session.key, steps) is None
    assert await store.find(session.key, "step", 1) is None
    assert await store.newest(session.key, "step", 10) is None
    assert list(await store.history(session.key, "step", 0, 10, 10)) == []


async def test_a_session_may_be_deleted_while_its_snapshot_is_written(store: Store) -> None:
    session, [part] = await started(store, steps=3), random_body(1, 2 * MIB)

    async with store.snapshot_writer(session.key) as writer:
        await writer.write(part)
        await store.delete(session, 3)
        await writer.write(part)
        await writer.commit(snapshot(3, [part, part]))

    assert list(await store.snapshots(session.key)) == []
    assert await store.list("alice", "", 10) == []


@pytest.mark.parametrize("anywhere", [False, True])
async def test_of_an_append_and_a_delete_that_race_the_delete_is_never_undone(
    writers: list[Store], anywhere: bool
) -> None:
    for number in range(20):
        appending, deleting = writers[0], writers[number % len(writers)]
        seq = number % 2
        session = await started(appending, f"s{number}", steps=seq)

        appended, deleted = await asyncio.gather(
            append(appending, session.key, entry(seq + 1, body := step_body(seq + 1)), body),
            deleting.delete(session, None if anywhere else seq),
            return_exceptions=True,
        )

        loaded = await deleting.load("alice", session.id)
        assert loaded is not None
        assert isinstance(appended, bool | SequenceTaken)
        if deleted is None:
            assert anywhere or isinstance(appended, SequenceTaken)
            assert loaded.deleted_at is not None
            with pytest.raises(SequenceTaken):
                await append(appending, session.key, entry(seq + 2))
        else:
            assert isinstance(deleted, SequenceTaken)
            assert appended is True
            assert loaded.deleted_at is None
            assert (await deleting.head(session.key)).seq == seq + 1


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
    assert {session.key: stands for session, stands in found} == {
        idle.key: head(5),
        other.key: EMPTY,
    }
    assert len(await store.idle_since(NOON + 20, 1)) == 1
    assert busy.key in {session.key for session, _ in await store.idle_since(NOON + 60, 10)}
