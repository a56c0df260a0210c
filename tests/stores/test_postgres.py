"""What only the store in PostgreSQL promises: many replicas, migrations, no password shown."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest
from postgres_server import PASSWORD, PostgresServer, count, execute
from store_logs import (
    append,
    entry,
    expected_log,
    grow,
    head,
    header,
    joined,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)
from typer.testing import CliRunner

from gradstep_server.cli import app
from gradstep_server.sessions.errors import IdTaken, SequenceTaken, StoreUnavailable
from gradstep_server.stores.postgres.store import PostgresStore
from gradstep_server.stores.urls import open_store, shown

pytestmark = pytest.mark.anyio

MIB = 2**20
Replicas = tuple[PostgresStore, PostgresStore]


async def test_replicas_write_one_log_in_turn(replicas: Replicas) -> None:
    session = await started(replicas[0])

    for seq in range(1, 21):
        await grow(replicas[seq % 2], session.key, seq, seq)
        with pytest.raises(SequenceTaken) as refusal:
            await append(replicas[(seq + 1) % 2], session.key, entry(seq))
        assert refusal.value.head == seq

    for replica in replicas:
        assert replica.shared
        assert await replica.load("alice", "a") == session
        assert await replica.head(session.key) == head(20)
        assert await replayed(replica, session.key) == expected_log(1, 20)


async def test_of_64_racers_at_each_position_exactly_one_wins(replicas: Replicas) -> None:
    session = await started(replicas[0])
    for seq in range(1, 51):
        bodies = [[memoryview(bytes([racer]))] for racer in range(64)]
        outcomes = await asyncio.gather(
            *(
                append(replicas[racer % 2], session.key, entry(seq, body), body)
                for racer, body in enumerate(bodies)
            ),
            return_exceptions=True,
        )

        [winner] = [racer for racer, outcome in enumerate(outcomes) if outcome is True]
        losses = [outcome for outcome in outcomes if isinstance(outcome, SequenceTaken)]
        assert [loss.head for loss in losses] == [seq] * 63
        assert await replayed(replicas[winner % 2], session.key, seq - 1) == [
            (entry(seq, bodies[winner]), joined(bodies[winner]))
        ]


async def test_an_id_is_given_once_by_all_replicas(replicas: Replicas, database: str) -> None:
    rivals = [header() for _ in range(16)]
    body = random_body(1, 5 * MIB)
    outcomes = await asyncio.gather(
        *(replicas[n % 2].create(rival, entry(1, body), body) for n, rival in enumerate(rivals)),
        return_exceptions=True,
    )

    [winner] = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    assert sum(isinstance(outcome, IdTaken) for outcome in outcomes) == 15
    assert await replicas[0].load("alice", "a") == winner
    assert await count(database, "gradstep_chunks") == 2


async def test_replicas_may_keep_and_trim_the_same_snapshots(
    replicas: Replicas, database: str
) -> None:
    session = await started(replicas[0], steps=30)
    body = random_body(1, 5 * MIB)
    for seq in (10, 20, 30):
        await asyncio.gather(
            *(put_snapshot(replica, session.key, snapshot(seq, body), body) for replica in replicas)
        )
        await asyncio.gather(*(replica.trim(session.key, seq - 10) for replica in replicas))

    for replica in replicas:
        assert await replayed(replica, session.key, after=20) == expected_log(21, 30)
        assert await newest_snapshot(replica, session.key) == (snapshot(30, body), joined(body))
    assert await count(database, "gradstep_snapshots") == 2
    assert await count(database, "gradstep_chunks") == 2 * 2 + 10


async def test_a_body_of_64_mb_comes_back_bit_for_bit(replicas: Replicas) -> None:
    session = await started(replicas[0])
    body = random_body(1, 30_000_000, 7, 33_999_993)

    await append(replicas[0], session.key, entry(1, body), body)

    assert await replayed(replicas[1], session.key) == [(entry(1, body), joined(body))]


async def test_what_was_refused_or_deleted_leaves_no_chunk(
    replicas: Replicas, database: str
) -> None:
    body = random_body(1, 9 * MIB)
    session = await started(replicas[0], steps=1)
    with pytest.raises(SequenceTaken):
        await append(replicas[0], session.key, entry(9, body), body)
    await append(replicas[0], session.key, entry(2, body), body)
    await put_snapshot(replicas[0], session.key, snapshot(2, body), body)
    await put_snapshot(replicas[0], session.key, snapshot(2, body), body)
    assert await count(database, "gradstep_chunks") == 1 + 3 + 3

    await replicas[1].delete(session, 2)
    await put_snapshot(replicas[0], session.key, snapshot(2, body), body)

    for table in ("chunks", "snapshots", "entries", "logs"):
        assert await count(database, f"gradstep_{table}") == 0
    assert await count(database, "gradstep_sessions WHERE swept") == 1


@pytest.mark.parametrize("suffix", ["", "&synchronous_commit=off"])
async def test_a_commit_is_synced_whatever_the_defaults_are(database: str, suffix: str) -> None:
    store = PostgresStore(database + suffix)
    await execute(database, "ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        await store.open()
        for _ in range(2):  # a connection that is returned keeps its settings
            async with store._connections.use() as db:
                assert await db.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await execute(database, "ALTER DATABASE postgres RESET synchronous_commit")
        await store.close()


async def test_a_server_that_does_not_sync_is_named_in_the_banner(database: str) -> None:
    store = PostgresStore(database)
    try:
        await execute(database, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        async with asyncio.timeout(10):
            while "fsync = off" not in store.durability:
                await store.open()
                await store.close()
    finally:
        await execute(database, "ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
    assert "not the loss of power" in store.durability


@pytest.mark.parametrize(
    ("address", "visible"),
    [
        ("postgresql://me:pw@db.example:5433/x", "postgresql://me@db.example:5433/x"),
        ("postgres://me@db.example/x", "postgres://me@db.example/x"),
        ("postgresql:///x?host=/run/pg&password=pw", "postgresql:///x?host=/run/pg"),
        ("postgresql://h/x?user=me&sslpassword=pw", "postgresql://h/x?user=me"),
        ("postgresql://:pw@h/x?sslmode=require", "postgresql://@h/x?sslmode=require"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, visible: str) -> None:
    store = open_store(address, shared=True)

    assert isinstance(store, PostgresStore)
    assert store.url == shown(address) == visible


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:p/w@h/x",
        "postgresql://me:p?w@h/x",
        "postgresql://me:p#w@h/x",
        "postgresql://me:p@w@h/x",
        "postgresql://me:p[w@h/x",
    ],
)
def test_a_password_that_cannot_be_told_from_the_rest_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="written as %40") as refusal:
        open_store(address)

    told = "".join(traceback.format_exception(refusal.value, chain=True)).split("ValueError")[-1]
    assert "me:" not in told
    assert shown(address) == "postgresql://…"


@pytest.mark.parametrize("wrong", ["h:port/x", "h/x?sslmode=maybe", "h:1:2/x"])
async def test_an_address_that_the_driver_refuses_is_told_without_its_password(wrong: str) -> None:
    store = PostgresStore(f"postgresql://me:secret@{wrong}")
    with pytest.raises(StoreUnavailable, match="postgresql://me@h") as refusal:
        await store.open()
    told = traceback.format_exception(refusal.value)
    assert not any("secret" in part for part in told)


def test_another_scheme_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="is no store") as refusal:
        open_store("postgresql+asyncpg://me:secret@h/x")
    assert "secret" not in str(refusal.value)


def test_the_command_shows_no_password() -> None:
    secret = f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:1/x"
    listed = CliRunner().invoke(app, ["config", "show", "--store", secret]).output
    failed = CliRunner().invoke(app, ["--port", "0", "--store", secret]).output

    assert "GRADSTEP_STORE=postgresql://me@127.0.0.1:1/x\n" in listed
    assert "postgresql://me@127.0.0.1:1/x cannot be used. PostgreSQL cannot be reached" in failed
    for output in (listed, failed):
        assert PASSWORD not in output
        assert quote(PASSWORD, safe="") not in output


async def test_a_wrong_password_is_refused_without_being_told(postgres: PostgresServer) -> None:
    store = PostgresStore(postgres.url("postgres", "wr0ng"))

    with pytest.raises(StoreUnavailable, match="password authentication failed") as refusal:
        await store.open()

    assert "wr0ng" not in "".join(traceback.format_exception(refusal.value)) + store.url


def test_a_missing_driver_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gradstep_server.stores.postg")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ValueError, match=r"pip install 'gradstep-server\[postgres\]'"):
        open_store("postgresql://h/x")


def test_the_driver_is_loaded_only_where_it_is_needed() -> None:
    code = (
        "import sys; from gradstep_server.stores.urls import open_store; "
        "open_store('memory://'); assert 'asyncpg' not in sys.modules; "
        "open_store('postgresql://h/x'); assert 'asyncpg' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
