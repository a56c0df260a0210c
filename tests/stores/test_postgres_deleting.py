"""Deleting from PostgreSQL: what is deleted stays so, whatever can be read or dropped of it."""

from __future__ import annotations

from typing import Any

import pytest
from postgres_server import count, execute
from store_logs import EMPTY, append, entry, random_body, replayed, started

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt, StoreUnavailable
from gradstep_server.stores.postgres import sweeping
from gradstep_server.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.anyio

MIB = 2**20
Replicas = tuple[PostgresStore, PostgresStore]

TABLES = ("gradstep_logs", "gradstep_entries", "gradstep_snapshots")


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM gradstep_entries WHERE seq = 2",
        "DELETE FROM gradstep_chunks",
        "UPDATE gradstep_logs SET seq = 9",
    ],
)
async def test_a_session_whose_log_is_damaged_can_be_deleted(
    replicas: Replicas, database: str, damage: str
) -> None:
    session = await started(replicas[0], steps=3)
    await execute(database, damage)
    with pytest.raises(SessionCorrupt):
        await replayed(replicas[0], session.key)

    await replicas[0].delete(session, None)

    deleted = await replicas[1].load("alice", "a")
    assert deleted is not None
    assert deleted.deleted_at is not None
    assert [await count(database, table) for table in TABLES] == [0, 0, 0]


@pytest.mark.parametrize("seq", [None, 0, 3])
async def test_a_session_whose_log_is_gone_is_listed_as_empty_and_can_be_deleted(
    replicas: Replicas, database: str, seq: int | None
) -> None:
    session = await started(replicas[0], steps=3)
    await execute(database, "DELETE FROM gradstep_logs")
    assert list(await replicas[0].list("alice", "", 10)) == [(session, EMPTY)]
    assert list(await replicas[0].idle_since(2 * EMPTY.updated_at, 10)) == []

    await replicas[0].delete(session, seq)

    assert list(await replicas[1].list("alice", "", 10)) == []
    assert [await count(database, table) for table in TABLES] == [0, 0, 0]


async def test_what_cannot_be_dropped_holds_up_no_start(
    replicas: Replicas, database: str, caplog: Any
) -> None:
    damaged, other = await started(replicas[0], steps=2), await started(replicas[0], "b")
    raises = "BEGIN RAISE EXCEPTION 'a damaged page' USING ERRCODE = 'XX001'; END"
    await execute(
        database,
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ {raises} $$",
        "CREATE TRIGGER failing BEFORE DELETE ON gradstep_chunks "
        "FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    await replicas[0].delete(damaged, None)
    await replicas[0].delete(other, 0)

    for swept in (1, 2):
        caplog.clear()
        again = PostgresStore(database)
        await again.open()
        await again.close()
        assert ("what session a held is not dropped yet" in caplog.text) == (swept == 1)
        assert await count(database, "gradstep_sessions WHERE swept") == swept
        await execute(database, "DROP FUNCTION IF EXISTS fail CASCADE")
    assert await count(database, "gradstep_chunks") == 0


async def test_a_delete_that_was_cut_off_is_swept_at_the_next_start(database: str) -> None:
    store = PostgresStore(database)
    await store.open()
    session = await started(store, steps=300)
    # What a replica leaves that dies between the two parts of a delete.
    await execute(
        database,
        "DELETE FROM gradstep_logs",
        "UPDATE gradstep_sessions SET deleted_at = 5",
    )
    assert await replayed(store, session.key) == []
    assert await store.find(session.key, "step", 1) is None
    await store.close()

    again = PostgresStore(database)
    await again.open()
    await again.close()

    assert await count(database, "gradstep_entries") == 0
    assert await count(database, "gradstep_chunks") == 0


async def test_a_delete_stands_although_what_it_held_could_not_be_dropped(
    replicas: Replicas, database: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def fails(*_: object) -> None:
        raise StoreUnavailable("the connection went away")

    session = await started(replicas[0], steps=2)
    monkeypatch.setattr(sweeping, "sweep", fails)
    await replicas[0].delete(session, 2)
    monkeypatch.undo()

    assert "is not dropped yet: the connection went away" in caplog.text
    assert await replayed(replicas[1], session.key) == []
    deleted = await replicas[1].load("alice", "a")
    assert deleted is not None
    assert deleted.deleted_at is not None
    await replicas[1].delete(session, 2)
    with pytest.raises(SequenceTaken):
        await append(replicas[1], session.key, entry(3))


async def test_a_log_that_is_deleted_while_it_is_read_ends(replicas: Replicas) -> None:
    session = await started(replicas[0], steps=2)
    body = random_body(1, MIB)
    await append(replicas[0], session.key, entry(3, body), body)
    log = replicas[0].replay(session.key, 0)
    seen = [(await anext(log))[0].seq, (await anext(log))[0].seq]

    await replicas[1].delete(session, 3)

    assert seen == [1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(log)
