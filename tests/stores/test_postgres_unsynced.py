"""What PostgreSQL may lose of entries that are synced later, and how it is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import httpx
import pytest
from postgres_server import PostgresServer, count, execute
from session_app import Service, running, same
from store_logs import append, entry, expected_log, grow, head, random_body, replayed, started

from gradstep_server.sessions import background
from gradstep_server.sessions.errors import SequenceTaken, StoreUnavailable
from gradstep_server.sessions.store import Store
from gradstep_server.stores.postgres import appending
from gradstep_server.stores.postgres.connections import Connection
from gradstep_server.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.anyio

MIB = 2**20
Replicas = tuple[PostgresStore, PostgresStore]

CRASH = "DELETE FROM gradstep_incarnation"
"""What a crash of the server does, where all else was written already."""


async def _log_of(url: str) -> tuple[int, int]:
    """Return how far the server's own log is written, and how far it is synced."""
    db = await asyncpg.connect(url)
    try:
        query = "SELECT pg_current_wal_insert_lsn() - '0/0', pg_current_wal_flush_lsn() - '0/0'"
        written, synced = await db.fetchrow(query)
        return int(written), int(synced)
    finally:
        await db.close()


async def _waits(db: Connection) -> None:
    """Return when someone waits for a lock."""
    for _ in range(1000):
        if await db.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no one waits for a lock")


@pytest.mark.parametrize("size", [10, 5 * MIB])
async def test_only_what_says_that_it_is_synced_waits_for_the_disk(
    replicas: Replicas, database: str, postgres: PostgresServer, size: int
) -> None:
    session, body = await started(replicas[0]), random_body(1, size)
    with postgres.frozen_log_writer():
        for seq in range(1, 13):
            before, _ = await _log_of(database)
            waited = await append(
                replicas[seq % 2], session.key, entry(seq, body), body, synced=seq % 4 == 0
            )
            written, synced = await _log_of(database)
            assert waited == (seq in {1, 4, 5, 7, 8, 9, 12})
            assert synced > before or not waited
            assert synced <= before or waited or size > MIB  # long ones need the server's buffers
            if seq % 6 == 0:
                await replicas[0].sync(session.key)
                assert (await _log_of(database))[1] >= written


@pytest.mark.parametrize("crash", [PostgresServer.kill, PostgresServer.kill_client])
async def test_a_crash_takes_unsynced_entries_only_and_the_log_is_suspect(
    replicas: Replicas, postgres: PostgresServer, crash: Callable[[PostgresServer], None]
) -> None:
    synced, burst, made_up, idle = [await started(replicas[0], name) for name in "abcd"]
    with postgres.frozen_log_writer():
        await grow(replicas[0], made_up.key, 1, 20, synced=False)
        await grow(replicas[0], idle.key, 1, 1, synced=False)
        await replicas[1].sync(made_up.key)
        await grow(replicas[1], synced.key, 1, 20)
        assert await grow(replicas[0], burst.key, 1, 20, synced=False) == [True, *[False] * 19]
        await asyncio.to_thread(crash, postgres)
    await asyncio.to_thread(postgres.start)

    left = (await replicas[0].head(burst.key)).seq
    assert 1 <= left < 20
    for session, stands in (
        (synced, head(20)),
        (burst, head(left, suspect=True)),
        (made_up, head(20)),
        (idle, head(1, suspect=True)),
    ):
        assert await replicas[1].head(session.key) == stands
        assert await replayed(replicas[1], session.key) == expected_log(1, stands.seq)


async def test_an_orderly_restart_loses_nothing_and_the_burst_goes_on(
    replicas: Replicas, postgres: PostgresServer
) -> None:
    session = await started(replicas[0])
    await grow(replicas[0], session.key, 1, 20, synced=False)

    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)

    assert await replicas[1].head(session.key) == head(20)
    assert await grow(replicas[1], session.key, 21, 22, synced=False) == [False, False]
    assert await replayed(replicas[0], session.key) == expected_log(1, 22)


async def test_what_was_there_before_a_sync_stays_whenever_the_server_is_killed(
    replicas: Replicas, postgres: PostgresServer
) -> None:
    added = synced = 0

    async def add(key: str) -> None:
        nonlocal added
        while True:
            await grow(replicas[0], key, added + 1, added + 1, synced=False)
            added += 1

    async def sync(key: str) -> None:
        nonlocal synced
        while True:
            before = added
            await replicas[1].sync(key)
            synced = before
            await asyncio.sleep(0.01)

    for name in "ab":
        added = synced = 0
        session = await started(replicas[0], name)
        tasks = [asyncio.create_task(work(session.key)) for work in (add, sync)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.kill)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(postgres.start)

        assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
        stands = await replicas[1].head(session.key)
        assert 0 < synced <= stands.seq <= added + 1
        assert stands.suspect or stands.seq >= added
        assert await replayed(replicas[1], session.key) == expected_log(1, stands.seq)


async def _refused(store: Store, key: str, seq: int, *, synced: bool = True) -> bool:
    """Append, and return whether it was refused."""
    [outcome] = await asyncio.gather(
        append(store, key, entry(seq), synced=synced), return_exceptions=True
    )
    assert outcome is True or isinstance(outcome, SequenceTaken)
    return outcome is not True


@pytest.mark.parametrize("synced", [True, False])
async def test_a_writer_that_looked_before_a_crash_is_refused_until_it_looks_again(
    replicas: Replicas, database: str, synced: bool
) -> None:
    unaware, aware = replicas
    session = await started(aware)
    await grow(aware, session.key, 1, 3, synced=False)
    assert await unaware.head(session.key) == head(3)
    await execute(database, CRASH)

    assert await aware.head(session.key) == head(3, suspect=True)
    assert await _refused(unaware, session.key, 4, synced=synced)
    assert await unaware.head(session.key) == head(3, suspect=True)
    assert not await _refused(unaware, session.key, 4, synced=synced)
    assert await aware.head(session.key) == head(4, suspect=not synced)


async def test_what_a_writer_knows_of_one_crash_is_not_enough_after_the_next(
    replicas: Replicas, database: str
) -> None:
    writer, other = replicas
    session = await started(writer)
    await grow(writer, session.key, 1, 2, synced=False)
    await execute(database, CRASH)
    for replica in replicas:
        assert (await replica.head(session.key)).suspect
    await grow(writer, session.key, 3, 3)
    await grow(writer, session.key, 4, 5, synced=False)
    await execute(database, CRASH)

    assert await _refused(other, session.key, 6)
    assert await writer.head(session.key) == head(5, suspect=True)


async def test_an_entry_that_waits_for_the_end_of_a_burst_is_synced(replicas: Replicas) -> None:
    session = await started(replicas[0])
    await grow(replicas[0], session.key, 1, 2, synced=False)
    async with replicas[1]._connections.use() as db:
        async with db.transaction():
            await appending.sync(db, session.key)
            adding = asyncio.create_task(grow(replicas[0], session.key, 3, 3, synced=False))
            await _waits(db)

        assert await adding == [True]
    assert await grow(replicas[0], session.key, 4, 4, synced=False) == [False]


async def test_bursts_go_on_soon_after_a_crash(replicas: Replicas, database: str) -> None:
    sessions = [await started(replicas[0], f"s{number}") for number in range(16)]

    async def grown(seq: int) -> list[list[bool]]:
        return await asyncio.gather(
            *(
                grow(replicas[number % 2], session.key, seq, seq, synced=False)
                for number, session in enumerate(sessions)
            )
        )

    for seq in (1, 4, 7):
        assert await grown(seq) == [[True]] * 16
        await grown(seq + 1)  # where the first came before the server's life had a name
        assert await grown(seq + 2) == [[False]] * 16
        assert await count(database, "gradstep_incarnation") == 1
        for session in sessions:
            await replicas[0].sync(session.key)
        await execute(database, CRASH)
    assert {stands for _, stands in await replicas[1].list("alice", "", 99)} == {head(9)}


@pytest.mark.parametrize(("seen", "size"), [(64, 10), (1, MIB)])
@pytest.mark.parametrize("grown", [0, 100])
async def test_a_replay_ends_when_a_crash_took_what_it_has_read(
    replicas: Replicas, database: str, seen: int, size: int, grown: int
) -> None:
    session, body = await started(replicas[0]), random_body(1, size)
    for seq in range(1, seen + 2):
        await append(replicas[0], session.key, entry(seq, body), body)
    log = replicas[0].replay(session.key, 0)
    assert [(await anext(log))[0].seq for _ in range(seen)] == [*range(1, seen + 1)]
    await execute(
        database,
        "DELETE FROM gradstep_entries",
        "UPDATE gradstep_logs SET seq = 0, seal = ''",
    )
    after = b""
    for seq in range(1, grown + 1):
        other = entry(seq, seal=seq.to_bytes(32, "big"))
        await replicas[1].append(session.key, other, (), after=after)
        after = other.seal

    with pytest.raises(StoreUnavailable, match="lost the end of the log in a crash"):
        await anext(log)


def test_a_retry_from_before_a_loss_is_refused(
    database: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "SYNC_AFTER", 60.0)

    def step(service: Service, n: int, generation: int) -> httpx.Response:
        sent = {"grads": {"w": [n]}}
        headers = {"Gradstep-Generation": str(generation)}
        return service.put(f"{path}/steps/{n}?return=receipt", json=sent, headers=headers)

    with running(database) as service, running(database) as other:
        path = service.session("a", params={"w": [1.0]}, durability="relaxed")
        with postgres.frozen_log_writer():
            receipts = [step(service, n, 1).json() for n in range(1, 7)]
            postgres.kill()
        postgres.start()

        assert [receipt["durable_step"] for receipt in receipts] == [1] * 6
        refused = step(other, 7, 1)
        assert (refused.status_code, refused.json()["code"]) == (409, "generation-mismatch")
        left = other.get(path).json()["step"]
        assert 1 <= left < 6
        for replica in (service, other):
            shown = replica.get(path).json()
            assert (shown["step"], shown["generation"]) == (left, 2)
            assert step(replica, 6, 1).json()["code"] == "generation-mismatch"
        assert step(service, left + 1, 2).status_code == 201
        assert same(other.params(path), service.params(path))
