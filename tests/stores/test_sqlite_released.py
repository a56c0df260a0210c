"""Directories that released versions of gradstep have left are opened and go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest
from failing_disk import FailingDisk
from released_logs import check, read_facts
from store_logs import append, entry, started, step_body

from gradstep_server.sessions.errors import StorageFull, StoreUnavailable
from gradstep_server.stores.sqlite.backup import backup, restore
from gradstep_server.stores.sqlite.catalogue import SCHEMA as CATALOGUE
from gradstep_server.stores.sqlite.store import SqliteStore
from gradstep_server.stores.sqlite.tables import SCHEMA

pytestmark = pytest.mark.anyio

RELEASED = sorted((Path(__file__).parent / "released").glob("sqlite-v*"))


@pytest.fixture(params=RELEASED, ids=lambda path: path.name)
def released(request: pytest.FixtureRequest) -> Path:
    """Return the folder of one released version."""
    found: Path = request.param
    return found


def copied(released: Path, folder: Path) -> Path:
    """Return a copy of what the released version has left, to be opened."""
    return Path(shutil.copytree(released / "data", folder / "data"))


def test_there_is_a_directory_of_every_version_before_this_one() -> None:
    versions = [int(path.name.removeprefix("sqlite-v")) for path in RELEASED]

    assert versions == list(range(1, SCHEMA.version))
    for released in RELEASED:
        facts = read_facts(released / "expected.json")
        assert any(known["deleted"] for known in facts.values())
        assert any(known.get("trimmed") and known["snapshots"] for known in facts.values())
        assert list((released / "data").glob("sessions/??/*.sqlite-wal")) != []


@pytest.mark.parametrize("shared", [False, True])
async def test_everything_reads_as_the_released_version_has_read_it(
    released: Path, tmp_path: Path, shared: bool
) -> None:
    store = SqliteStore(copied(released, tmp_path), shared=shared)
    await store.open()
    await check(store, read_facts(released / "expected.json"))
    await store.close()

    store = SqliteStore(tmp_path / "data", shared=shared)
    await store.open()
    await check(store, read_facts(released / "expected.json"))
    await store.close()


async def test_a_backup_is_of_its_own_version_and_is_migrated_when_it_is_opened(
    released: Path, tmp_path: Path
) -> None:
    source, facts = copied(released, tmp_path), read_facts(released / "expected.json")
    version = int(released.name.removeprefix("sqlite-v"))
    assert backup(source, tmp_path / "copy", lambda *_: None) == 4
    for folder in (source, tmp_path / "copy"):
        for path in folder.glob("sessions/??/*.sqlite"):
            assert tables(path)[0] == (SCHEMA.application_id, version)

    store = SqliteStore(tmp_path / "copy")
    await store.open()
    await check(store, facts)
    await store.close()
    assert restore(tmp_path / "copy", tmp_path / "restored", lambda *_: None) == 4
    restored = SqliteStore(tmp_path / "restored")
    await restored.open()
    await check(restored, facts, suspect=True)
    await restored.close()


async def test_its_sessions_go_on(released: Path, tmp_path: Path) -> None:
    store = SqliteStore(copied(released, tmp_path))
    await store.open()
    for name, known in read_facts(released / "expected.json").items():
        entries, key = known.get("entries"), known["key"]
        if entries:
            after, seq = bytes.fromhex(entries[-1][6]), len(entries) + 1
            added = entry(seq, body := step_body(seq))
            assert await store.append(key, added, body, after=after, synced=False)
            assert not await append(store, key, entry(seq + 1), synced=False)
            assert (await store.head(key)).seq == seq + 1
        elif not known["deleted"]:
            await append(store, key, entry(1))
        header = await store.load("default", name)
        assert header is not None
        await store.delete(header, None)
    await started(store, "new", steps=3)
    assert [header.id for header, _ in await store.list("default", "", 100)] == []
    await store.close()


def tables(path: Path) -> list[tuple[Any, ...]]:
    """Return the format number of a file, and what its tables are."""
    db = apsw.Connection(str(path))
    found: list[tuple[Any, ...]] = db.execute(
        "SELECT * FROM sqlite_schema ORDER BY name"
    ).fetchall()
    version = (db.pragma("application_id"), db.pragma("user_version"))
    db.close()
    return [version, *(row[:3] + row[4:] for row in found)]


async def test_a_migrated_file_has_the_tables_of_a_new_one(released: Path, tmp_path: Path) -> None:
    store = SqliteStore(copied(released, tmp_path))
    await store.open()
    new = await started(store, "new", steps=1)
    wanted = store._sessions._logs.path(new.key)
    await store.list("default", "", 100)
    await store.close()

    paths = set((tmp_path / "data").glob("sessions/??/*.sqlite")) - {wanted}
    assert len(paths) == 3
    assert tables(wanted)[0] == (SCHEMA.application_id, SCHEMA.version)
    for path in paths:
        assert tables(path) == tables(wanted)
    identity = (CATALOGUE.application_id, CATALOGUE.version)
    assert tables(tmp_path / "data" / "catalogue.sqlite")[0] == identity


async def test_stores_that_open_a_file_at_once_migrate_it_once(
    released: Path, tmp_path: Path
) -> None:
    key = read_facts(released / "expected.json")["adamw"]["key"]
    for number in range(5):
        folder = copied(released, tmp_path / str(number))
        stores = [SqliteStore(folder, shared=True) for _ in range(8)]
        for store in stores:
            await store.open()

        heads = await asyncio.gather(*(store.head(key) for store in stores))

        assert len(set(heads)) == 1
        await check(stores[0], read_facts(released / "expected.json"))
        for store in stores:
            await store.close()


@pytest.mark.parametrize("writes", range(0, 36, 3))
async def test_a_power_loss_while_a_file_is_migrated_loses_nothing(
    released: Path, tmp_path: Path, writes: int
) -> None:
    source, folder = random.Random(writes), copied(released, tmp_path)
    with FailingDisk() as disk:
        store = SqliteStore(folder)
        await store.open()
        disk.writes_left = writes
        with contextlib.suppress(StoreUnavailable):
            await store.list("default", "", 100)
        await store.close()
        disk.lose_power(source)

    store = SqliteStore(folder)
    await store.open()
    await check(store, read_facts(released / "expected.json"))
    await store.close()


async def test_a_file_that_a_full_disk_keeps_from_migrating_is_as_it_was(
    released: Path, tmp_path: Path
) -> None:
    key = read_facts(released / "expected.json")["adamw"]["key"]
    with FailingDisk() as disk:
        store = SqliteStore(copied(released, tmp_path))
        await store.open()
        disk.room = 0
        with pytest.raises(StorageFull):
            await store.head(key)
        disk.room = None
        await check(store, read_facts(released / "expected.json"))
        await store.close()
