"""Snapshots that are written piece by piece to PostgreSQL, and what is left when they are not."""

from __future__ import annotations

import asyncio

import pytest
from postgres_server import PostgresServer, count
from store_logs import (
    append,
    entry,
    grow,
    joined,
    newest_snapshot,
    random_body,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.stores.postgres import connections, snapshots
from gradstep_server.stores.postgres import store as stores
from gradstep_server.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.anyio

MIB = 2**20
Replicas = tuple[PostgresStore, PostgresStore]


async def _begin(store: PostgresStore, key: str, seq: int, go_on: asyncio.Event) -> None:
    """Write half a snapshot, and the rest when `go_on` is set."""
    body = random_body(seq, 5 * MIB, 3 * MIB)
    async with store.snapshot_writer(key) as writer:
        await writer.write(body[0])
        await go_on.wait()
        await writer.write(body[1])
        await writer.commit(snapshot(seq, body))


async def test_snapshots_under_way_leave_connections_to_all_else(
    replicas: Replicas, database: str
) -> None:
    many = 4 * stores._SNAPSHOTS + 4
    session, go_on = await started(replicas[0], steps=1), asyncio.Event()
    tasks = [
        asyncio.create_task(_begin(replicas[0], session.key, seq, go_on)) for seq in range(many)
    ]

    await grow(replicas[0], session.key, 2, 30)
    assert await count(database, "gradstep_snapshots") == 0
    go_on.set()
    await asyncio.gather(*tasks)

    assert [seq for seq, _ in await replicas[1].snapshots(session.key)] == list(range(many))
    await replicas[1].trim(session.key, many - 1)
    assert await count(database, "gradstep_chunks") == 2 + 30 - (many - 1)


async def test_a_snapshot_waits_for_its_pieces_longer_than_an_append_may(
    replicas: Replicas, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = {"idle_in_transaction_session_timeout": "1s"}
    monkeypatch.setattr(connections, "_SETTINGS", {**connections._SETTINGS, **timeout})
    store = PostgresStore(database)
    await store.open()
    session, go_on = await started(replicas[0], steps=1), asyncio.Event()
    task = asyncio.create_task(_begin(store, session.key, 1, go_on))
    await asyncio.sleep(2)
    go_on.set()
    await task

    body = random_body(1, 5 * MIB, 3 * MIB)
    assert await newest_snapshot(store, session.key) == (snapshot(1, body), joined(body))
    await store.close()


async def test_a_snapshot_of_a_frozen_replica_is_given_up_and_leaves_nothing(
    replicas: Replicas, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = "SET LOCAL idle_in_transaction_session_timeout = '200ms'"
    monkeypatch.setattr(snapshots, "_PATIENT", patience)
    session, go_on = await started(replicas[0], steps=1), asyncio.Event()
    task = asyncio.create_task(_begin(replicas[0], session.key, 1, go_on))
    await asyncio.sleep(0.6)
    go_on.set()
    with pytest.raises(StoreUnavailable):
        await task

    assert list(await replicas[1].snapshots(session.key)) == []
    assert await count(database, "gradstep_chunks") == 1
    await append(replicas[0], session.key, entry(2))


@pytest.mark.parametrize("end", ["abandoned", "raised", "cancelled", "killed", "deleted", "kept"])
async def test_a_snapshot_that_is_not_kept_leaves_no_chunk(
    replicas: Replicas, database: str, postgres: PostgresServer, end: str
) -> None:
    session, body = await started(replicas[0], steps=1), random_body(1, 9 * MIB)
    written = asyncio.Event()

    async def write() -> None:
        async with replicas[0].snapshot_writer(session.key) as writer:
            await writer.write(body[0])
            written.set()
            if end == "raised":
                raise ValueError(end)
            if end == "cancelled":
                await asyncio.sleep(60)
            if end == "killed":
                await asyncio.to_thread(postgres.kill_client)
            if end == "deleted":
                await replicas[1].delete(session, 1)
            if end == "kept":
                async with replicas[1].snapshot_writer(session.key) as other:
                    await other.commit(snapshot(1))
            if end != "abandoned":
                await writer.commit(snapshot(1, body))

    task = asyncio.create_task(write())
    await written.wait()
    if end == "cancelled":
        task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)

    raised = {
        "raised": ValueError,
        "cancelled": asyncio.CancelledError,
        "killed": StoreUnavailable,
    }
    assert isinstance(outcome, raised.get(end, type(None)))
    await replicas[0].check()
    assert await count(database, "gradstep_chunks") == (0 if end == "deleted" else 1)
    assert await count(database, "gradstep_snapshots") == (1 if end == "kept" else 0)
