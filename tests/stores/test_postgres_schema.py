"""How the tables are made, and led from what released versions have left to the present."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from postgres_server import PostgresServer, count, execute
from released_logs import Facts, check, read_facts
from session_app import AS_JSON, running
from store_logs import append, entry, expected_log, replayed, started, step_body

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.stores.postgres import schema
from gradstep_server.stores.postgres.store import PostgresStore

pytestmark = pytest.mark.anyio

RELEASED = sorted((Path(__file__).parent / "released").glob("postgres-v*.sql"))


@pytest.fixture(params=RELEASED, ids=lambda path: path.name)
def dump(request: pytest.FixtureRequest) -> Path:
    """Return the dump of a database that a released version has left."""
    found: Path = request.param
    return found


@pytest.fixture
def facts(dump: Path) -> Facts:
    """Return what that version has read of it."""
    return read_facts(dump.with_suffix(".json"))


@pytest.fixture
def restored(postgres: PostgresServer, dump: Path) -> str:
    """Return the address of a database that holds it."""
    return postgres.restored(dump)


def test_there_is_a_dump_of_every_version_before_this_one() -> None:
    versions = [int(path.stem.removeprefix("postgres-v")) for path in RELEASED]

    assert versions == list(range(1, len(schema.STEPS)))
    for path in RELEASED:
        facts = read_facts(path.with_suffix(".json"))
        assert any(known["deleted"] for known in facts.values())
        assert any(known["trimmed"] and known["snapshots"] for known in facts.values())


async def test_replicas_that_open_it_at_once_read_what_the_released_version_has_read(
    restored: str, facts: Facts
) -> None:
    stores = [PostgresStore(restored) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))

    for store in stores:
        await check(store, facts)
        await store.close()
    assert await count(restored, f"gradstep_schema WHERE version = {len(schema.STEPS)}") == 1


async def test_its_sessions_go_on(restored: str, facts: Facts) -> None:
    store = PostgresStore(restored)
    await store.open()
    for name, known in facts.items():
        header = await store.load("default", name)
        assert header is not None
        if not known["deleted"]:
            seq = len(known["entries"]) + 1
            after = bytes.fromhex(known["entries"][-1][6]) if known["entries"] else b""
            added = entry(seq, body := step_body(seq))
            assert await store.append(header.key, added, body, after=after, synced=False)
            assert not await append(store, header.key, entry(seq + 1), synced=False)
        await store.delete(header, None)
    assert list(await store.list("default", "", 100)) == []
    assert await count(restored, "gradstep_entries") == 0
    await store.close()


def test_the_service_finds_its_sessions_as_they_were(restored: str, facts: Facts) -> None:
    def known(shown: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        return {name: shown[name] for name in before}

    with running(restored) as service:
        for name, fact in facts.items():
            path = f"/v1/sessions/{name}"
            if fact["deleted"]:
                assert service.get(path).status_code == 404
                continue
            assert known(service.get(path).json(), fact["view"]) == fact["view"]
            params = service.get(f"{path}/params", headers=AS_JSON).json()
            assert known(params, fact["params"]) == fact["params"]
            n = fact["view"]["step"] + 1
            if fact["params"]["params"]:
                sent = {"grads": {"w": [0.5] * 8}}
                assert service.put(f"{path}/steps/{n}", json=sent).status_code == 201


async def test_a_replica_of_the_first_version_that_still_runs_adds_nothing(restored: str) -> None:
    store = PostgresStore(restored)
    await store.open()
    await store.close()
    for statement in (
        "UPDATE gradstep_logs SET seq = seq + 1, step = 9, updated_at = 9",
        "SELECT seq, step, updated_at FROM gradstep_logs",
    ):
        with pytest.raises(asyncpg.UndefinedColumnError):
            await execute(restored, statement)


async def test_eight_replicas_may_start_on_an_empty_database_at_once(database: str) -> None:
    stores = [PostgresStore(database) for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))

    session = await started(stores[0], steps=1)
    for store in stores:
        assert await replayed(store, session.key) == expected_log(1, 1)
        await store.close()
    assert await count(database, f"gradstep_schema WHERE version = {len(schema.STEPS)}") == 1


async def test_a_migration_keeps_what_is_there_and_runs_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = PostgresStore(database)
    await old.open()
    session = await started(old, steps=3)
    await old.close()

    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "CREATE TABLE gradstep_next (n integer)"))
    stores = [PostgresStore(database) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))

    for store in stores:
        assert await replayed(store, session.key) == expected_log(1, 3)
        await store.close()
    assert await count(database, "gradstep_next") == 0


async def test_a_migration_that_fails_changes_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "CREATE TABLE gradstep_next (n no_type)"))
    with pytest.raises(StoreUnavailable, match="no_type"):
        await PostgresStore(database).open()
    monkeypatch.undo()

    store = PostgresStore(database)
    await store.open()
    assert await store.list("alice", "", 10) == []
    await store.close()


async def test_a_database_of_a_newer_gradstep_is_refused(database: str) -> None:
    store = PostgresStore(database)
    await store.open()
    await store.close()
    await execute(database, "UPDATE gradstep_schema SET version = 99")

    with pytest.raises(StoreUnavailable, match=r"format 99, .* knows 2; run a newer gradstep"):
        await PostgresStore(database).open()
