"""What SQLite stores promise of entries that are synced later."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest
from failing_disk import FailingDisk
from store_appender import body_of
from store_logs import (
    append,
    entry,
    expected_log,
    grow,
    head,
    joined,
    put_snapshot,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.sessions.store import Store
from gradstep_server.stores.sqlite import unsynced
from gradstep_server.stores.sqlite.log import LogFile
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio


async def opened(directory: Path, incarnation: str, *, shared: bool = False) -> SqliteStore:
    store = SqliteStore(directory, shared=shared, incarnation=incarnation)
    await store.open()
    return store


async def add(store: Store, key: str, seq: int, *, synced: bool) -> bool:
    """Append an entry with a body of one of the appender's sizes."""
    return await append(store, key, entry(seq, body_of(seq)), body_of(seq), synced=synced)


async def test_only_what_has_to_be_synced_is(tmp_path: Path) -> None:
    with FailingDisk() as disk:
        store = await opened(tmp_path, "one")
        session = await started(store)
        assert await grow(store, session.key, 1, 1, synced=False) == [True]
        syncs = disk.syncs

        assert await grow(store, session.key, 2, 40, synced=False) == [False] * 39
        assert disk.syncs == syncs
        await store.sync(session.key)
        assert disk.syncs == syncs + 1
        await store.sync(session.key)
        assert disk.syncs == syncs + 1

        assert await grow(store, session.key, 41, 43, synced=False) == [True, False, False]
        assert disk.syncs == syncs + 2
        assert await grow(store, session.key, 44, 44) == [True]
        assert disk.syncs == syncs + 3
        await store.close()


async def burst_until_the_power_fails(
    store: SqliteStore, key: str, source: random.Random
) -> tuple[int, int]:
    """Return the last entry that was acknowledged, and the last that was synced."""
    seq, durable = 0, 0
    try:
        while True:
            chance = source.random()
            if chance < 0.05 and seq:
                await store.sync(key)
                durable = seq
            elif chance < 0.1 and seq:
                await put_snapshot(store, key, snapshot(seq, body_of(seq)), body_of(seq))
                durable = seq
            else:
                if await add(store, key, seq + 1, synced=chance < 0.15):
                    durable = seq + 1
                seq += 1
    except StoreUnavailable:
        return seq, durable


async def test_a_power_loss_takes_the_end_of_what_was_not_synced_and_leaves_suspicion(
    tmp_path: Path,
) -> None:
    lost = 0
    for seed in range(16):
        source, folder = random.Random(seed), tmp_path / str(seed)
        with FailingDisk() as disk:
            store = await opened(folder, "one")
            session = await started(store)
            disk.writes_left = source.randint(20, 700)
            acknowledged, durable = await burst_until_the_power_fails(store, session.key, source)
            await store.close()
            disk.lose_power(source)

        store = await opened(folder, "two")
        stands = await store.head(session.key)
        log = await replayed(store, session.key)
        await store.close()

        assert durable <= stands.seq <= acknowledged + 1
        assert [found for found, _ in log] == [
            entry(n, body_of(n)) for n in range(1, stands.seq + 1)
        ]
        assert [body for _, body in log] == [joined(body_of(n)) for n in range(1, stands.seq + 1)]
        assert stands.suspect or stands.seq >= acknowledged
        lost += acknowledged - min(stands.seq, acknowledged)
    assert lost > 0, "this disk loses nothing: it proves nothing"


async def test_what_is_closed_cleanly_is_synced_and_not_suspect(tmp_path: Path) -> None:
    with FailingDisk() as disk:
        store = await opened(tmp_path, "one")
        session = await started(store)
        await grow(store, session.key, 1, 9, synced=False)
        await store.close()
        disk.lose_power(random.Random(1))

    store = await opened(tmp_path, "two")
    assert await store.head(session.key) == head(9)
    assert await replayed(store, session.key) == expected_log(1, 9)
    await store.close()


async def test_a_file_that_gives_way_to_others_is_synced_before(tmp_path: Path) -> None:
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, open_files=1, incarnation="one")
        await store.open()
        sessions = [await started(store, f"s{number}") for number in range(3)]
        for session in sessions:
            await grow(store, session.key, 1, 5, synced=False)
        disk.writes_left = 0
        await store.close()
        disk.lose_power(random.Random(2))

    store = await opened(tmp_path, "two")
    heads = [await store.head(session.key) for session in sessions]
    assert heads[:2] == [head(5), head(5)]
    assert heads[2].suspect
    await store.close()


async def test_a_burst_that_another_process_synced_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = [await opened(tmp_path, "one", shared=True) for _ in range(2)]
    session = await started(first)
    assert await grow(first, session.key, 1, 2, synced=False) == [True, False]
    defers = LogFile._defers
    with monkeypatch.context() as patch:

        def then_sync(log: LogFile, db: apsw.Connection) -> bool:
            """Let the other process sync right after this one has looked."""
            patch.undo()
            found = defers(log, db)
            other._sessions.sync(session.key)
            return found

        patch.setattr(LogFile, "_defers", then_sync)
        assert await grow(first, session.key, 3, 4, synced=False) == [True, False]

    after_a_crash = await opened(tmp_path, "two", shared=True)
    assert await after_a_crash.head(session.key) == head(4, suspect=True)
    for store in (first, other, after_a_crash):
        await store.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_where_boots_have_no_name_a_process_alone_is_the_medium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(unsynced, "_BOOT_ID", tmp_path / "nothing")
    store = SqliteStore(tmp_path / "data", shared=shared)
    await store.open()
    session = await started(store)
    assert await grow(store, session.key, 1, 3, synced=False) == [True, shared, shared]
    store._lock.release()

    later = SqliteStore(tmp_path / "data", shared=shared)
    await later.open()
    assert await later.head(session.key) == head(3, suspect=not shared)
    await later.close()
    await store.close()


def test_a_boot_has_one_name() -> None:
    assert unsynced.this_incarnation(shared=True) == unsynced.this_incarnation(shared=False)
    assert unsynced.this_incarnation(shared=True)
