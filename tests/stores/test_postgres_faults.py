"""PostgreSQL killed, away, slow, full or damaged; connections cut; replicas frozen."""

from __future__ import annotations

import asyncio
import random

import pytest
import uvloop
from cutting_proxy import CuttingProxy
from postgres_server import PostgresServer, execute
from session_app import SGD, running
from store_logs import (
    append,
    entry,
    expected_log,
    header,
    joined,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import (
    SequenceTaken,
    SessionCorrupt,
    StorageFull,
    StoreUnavailable,
    Unavailable,
)
from gradstep_server.sessions.store import Store
from gradstep_server.stores.postgres import connections
from gradstep_server.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.anyio

MIB = 2**20
Replicas = tuple[PostgresStore, PostgresStore]


async def _append_until_it_fails(store: Store, key: str) -> int:
    """Return the last entry whose append has returned."""
    seq = 0
    try:
        while True:
            body = step_body(seq + 1)
            await append(store, key, entry(seq + 1, body), body)
            seq += 1
    except StoreUnavailable:
        return seq


async def test_a_server_that_is_killed_loses_nothing_acknowledged(
    replicas: Replicas, postgres: PostgresServer
) -> None:
    sessions = [await started(replicas[n % 2], f"s{n}") for n in range(4)]
    for _ in range(2):
        writers = [
            asyncio.create_task(_append_until_it_fails(replicas[n % 2], session.key))
            for n, session in enumerate(sessions)
        ]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(postgres.kill)
        acknowledged = await asyncio.gather(*writers)
        for replica in replicas:
            for attempt in (replica.check(), replica.head(sessions[0].key)):
                with pytest.raises(StoreUnavailable):
                    await attempt

        await asyncio.to_thread(postgres.start)
        for n, (session, seq) in enumerate(zip(sessions, acknowledged, strict=True)):
            replica = replicas[(n + 1) % 2]
            await replica.check()
            stands = (await replica.head(session.key)).seq
            assert seq > 0
            assert stands in {seq, seq + 1}
            assert await replayed(replica, session.key) == expected_log(1, stands)
        sessions = [await started(replicas[n % 2], f"{s.id}+") for n, s in enumerate(sessions)]


async def test_a_server_that_is_away_at_the_start_is_named(
    database: str, postgres: PostgresServer
) -> None:
    postgres.kill()
    store = PostgresStore(database)
    with pytest.raises(StoreUnavailable, match=rf"host={postgres.folder} cannot be used\. .*reach"):
        await store.open()

    postgres.start()
    await store.open()
    await store.check()
    await store.close()


def test_a_service_says_that_it_is_not_ready_until_the_server_is_back(
    database: str, postgres: PostgresServer
) -> None:
    with running(database) as service:
        path = service.session("a", params={"w": [1.0]})
        postgres.kill()
        for answer in (
            service.get("/readyz"),
            service.get(path),
            service.put(f"{path}/steps/1", json={"grads": {"w": [1.0]}}),
        ):
            assert answer.status_code == 503
            assert answer.json()["code"] == "store-unavailable"
            assert "Retry-After" in answer.headers
        assert service.get("/livez").status_code == 200

        postgres.start()
        assert service.get("/readyz").status_code == 200
        stepped = service.put(f"{path}/steps/1", json={"grads": {"w": [1.0]}})
        assert (stepped.status_code, stepped.json()["replayed"]) == (201, False)
        assert service.get(path).json()["optimizer"]["lr"] == SGD["lr"]


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_an_append_whose_answer_is_lost_is_there_whole_or_not_at_all(
    postgres: PostgresServer, database: str, size: int
) -> None:
    direct = PostgresStore(database)
    await direct.open()
    session = await started(direct)
    committed = []
    async with CuttingProxy(postgres.folder) as proxy:
        store = PostgresStore(database.replace(str(postgres.folder), str(proxy.folder)))
        await store.open()
        for seq in range(1, 13):
            body = random_body(seq, size)
            proxy.answers_left = seq - 1
            try:
                await append(store, session.key, entry(seq, body), body)
            except StoreUnavailable:
                committed.append((await direct.head(session.key)).seq == seq)
                proxy.answers_left = None
                again = append(store, session.key, entry(seq, body), body)
                [outcome] = await asyncio.gather(again, return_exceptions=True)
                assert isinstance(outcome, SequenceTaken) == committed[-1]
            assert await replayed(direct, session.key, seq - 1) == [
                (entry(seq, body), joined(body))
            ]
        await store.close()
    await direct.close()
    assert False in committed
    assert len(committed) < 12


def test_a_body_that_is_being_sent_to_a_server_that_ends_is_not_waited_for(
    database: str, postgres: PostgresServer
) -> None:
    async def send() -> None:
        store = PostgresStore(database)
        await store.open()
        session = await started(store)
        body = random_body(1, 64 * MIB)
        sending = asyncio.create_task(append(store, session.key, entry(1, body), body))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(postgres.stop_at_once)
        done, _ = await asyncio.wait({sending}, timeout=connections.STATEMENT / 2)
        assert done
        with pytest.raises(StoreUnavailable):
            await sending
        await store.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # what the service runs on
        runner.run(send())
    postgres.start()


@pytest.mark.parametrize(("size", "rounds", "longest"), [(10, 40, 0.002), (9 * MIB, 20, 0.15)])
async def test_an_append_that_is_cancelled_is_there_whole_or_not_at_all(
    replicas: Replicas, size: int, rounds: int, longest: float
) -> None:
    moments = random.Random(1)
    session = await started(replicas[0])
    for seq in range(1, rounds + 1):
        body = random_body(seq, size)
        task = asyncio.create_task(append(replicas[0], session.key, entry(seq, body), body))
        await asyncio.sleep(moments.uniform(0, longest))
        task.cancel()
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        assert outcome is True or isinstance(outcome, asyncio.CancelledError)
        if (await replicas[1].head(session.key)).seq != seq:
            assert outcome is not True
            await append(replicas[0], session.key, entry(seq, body), body)
        assert await replayed(replicas[1], session.key, seq - 1) == [
            (entry(seq, body), joined(body))
        ]


async def test_a_frozen_replica_holds_up_no_other_for_long(
    replicas: Replicas, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = {"idle_in_transaction_session_timeout": "1s"}
    monkeypatch.setattr(connections, "_SETTINGS", {**connections._SETTINGS, **timeout})
    frozen, other = PostgresStore(database), replicas[0]
    await frozen.open()
    session = await started(other)

    async def freeze() -> None:
        async with frozen._connections.use() as db, db.transaction():
            await db.execute("UPDATE gradstep_logs SET seq = seq + 1")
            await append(other, session.key, entry(1))

    with pytest.raises(StoreUnavailable):  # the driver has several sentences for it
        await freeze()

    assert await replayed(frozen, session.key) == [(entry(1), b"")]
    await frozen.close()


async def test_a_statement_that_takes_too_long_is_given_up(
    replicas: Replicas, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STATEMENT", 1.0)
    impatient, holder = PostgresStore(database), replicas[0]
    await impatient.open()
    session = await started(holder)
    async with holder._connections.use() as db, db.transaction():
        await db.execute("SELECT 1 FROM gradstep_logs FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="in time"):
            await append(impatient, session.key, entry(1))

    await append(impatient, session.key, entry(1))
    assert await replayed(holder, session.key) == [(entry(1), b"")]
    await impatient.close()


def _failing(state: str) -> tuple[str, str]:
    """Return statements that make every new chunk fail as the server itself would."""
    raises = f"BEGIN RAISE EXCEPTION 'a failing disk' USING ERRCODE = '{state}'; END"
    return (
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ {raises} $$",
        "CREATE TRIGGER failing BEFORE INSERT ON gradstep_chunks EXECUTE FUNCTION fail()",
    )


@pytest.mark.parametrize(
    ("state", "raised"),
    [
        ("53100", StorageFull),
        ("XX001", SessionCorrupt),
        ("XX002", SessionCorrupt),
        ("58030", StoreUnavailable),
        ("25006", StoreUnavailable),
    ],
)
async def test_a_failing_server_is_told_by_what_has_failed(
    replicas: Replicas, database: str, state: str, raised: type[Unavailable]
) -> None:
    session = await started(replicas[0], steps=2)
    await execute(database, *_failing(state))
    for body in (random_body(1, 10), random_body(2, 9 * MIB)):
        with pytest.raises(raised) as failure:
            await append(replicas[0], session.key, entry(3, body), body)
        assert type(failure.value) is raised
        with pytest.raises(raised):
            await put_snapshot(replicas[1], session.key, snapshot(2, body), body)
        with pytest.raises(raised):
            await replicas[1].create(header("b"), entry(1, body), body)
        assert await replayed(replicas[1], session.key) == expected_log(1, 2)
        assert await replicas[1].load("alice", "b") is None

    await execute(database, "DROP FUNCTION fail CASCADE")
    await append(replicas[0], session.key, entry(3, step_body(3)), step_body(3))
    assert await replayed(replicas[1], session.key) == expected_log(1, 3)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM gradstep_chunks", "body of entry 1 is not complete"),
        ("DELETE FROM gradstep_chunks WHERE number = 1", "body of entry 4 is not complete"),
        ("UPDATE gradstep_chunks SET data = data || '\\x00'", "body of entry 1 is not complete"),
        ("UPDATE gradstep_chunks SET data = substr(data, 2)", "body of entry 1 is not complete"),
        ("UPDATE gradstep_chunks SET number = 7 WHERE number = 2", "body of entry 4 is not"),
        ("DELETE FROM gradstep_entries WHERE seq = 2", "Entry 2 is missing"),
        ("DELETE FROM gradstep_entries WHERE seq = 4", "Entry 4 is missing"),
        ("DELETE FROM gradstep_entries", "Entry 1 is missing"),
    ],
)
async def test_what_is_missing_is_told_and_other_sessions_go_on(
    replicas: Replicas, database: str, damage: str, told: str
) -> None:
    session = await started(replicas[0], steps=3)
    body = random_body(1, 9 * MIB)
    await append(replicas[0], session.key, entry(4, body), body)
    await execute(database, damage)

    with pytest.raises(SessionCorrupt, match=told):
        await replayed(replicas[0], session.key)

    other = await started(replicas[0], "other", steps=70)
    assert await replayed(replicas[1], other.key) == expected_log(1, 70)
    listed = await replicas[1].list("alice", "", 10)
    assert [found.id for found, _ in listed] == ["a", "other"]


async def test_a_snapshot_that_is_not_complete_is_told(replicas: Replicas, database: str) -> None:
    session = await started(replicas[0], steps=1)
    body = random_body(1, 9 * MIB)
    await put_snapshot(replicas[0], session.key, snapshot(1, body), body)
    await execute(database, "DELETE FROM gradstep_chunks WHERE number = 2")

    with pytest.raises(SessionCorrupt, match="body of snapshot 1 is not complete"):
        await replicas[1].snapshot(session.key, 1)
