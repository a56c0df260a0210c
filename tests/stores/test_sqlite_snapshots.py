"""What SQLite stores do with a snapshot while it is written: rows in a file that others use."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import apsw
import pytest
from failing_disk import FailingDisk
from store_logs import (
    append,
    entry,
    expected_log,
    grow,
    joined,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import StorageFull, StoreUnavailable
from gradstep_server.sessions.store import Header, Snapshot
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

MIB = 2**20


def rows(store: SqliteStore, session: Header) -> tuple[int, int]:
    """Return how many chunks the session's file holds, and how many bodies are pending."""
    db = apsw.Connection(str(store._sessions._logs.path(session.key)))
    chunks: int = db.execute("SELECT count(*) FROM chunks").get
    pending: int = db.execute("SELECT count(*) FROM pending").get
    db.close()
    return chunks, pending


async def test_a_long_body_is_never_held_whole(sqlite: SqliteStore) -> None:
    session, piece = await started(sqlite, steps=1), memoryview(bytes(MIB + 1))
    body = [piece] * 100
    tracemalloc.start()
    await put_snapshot(sqlite, session.key, snapshot(1, body), body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 * MIB
    kept = await sqlite.snapshot(session.key, 1)
    assert kept is not None
    assert kept[1] == joined(body)


@pytest.mark.parametrize("shared", [False, True])
async def test_nothing_sweeps_what_is_being_written(tmp_path: Path, shared: bool) -> None:
    """Not a long append, another snapshot, a connection that failed, or too many open files."""
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, shared=shared, open_files=1)
        await store.open()
        session, parts = await started(store, steps=1), random_body(1, *[2 * MIB] * 5)
        async with store.snapshot_writer(session.key) as writer:
            await writer.write(parts[0])
            long = random_body(2, 3 * MIB)
            await append(store, session.key, entry(2, long), long)
            await writer.write(parts[1])
            await put_snapshot(store, session.key, snapshot(1, long), long)
            await writer.write(parts[2])
            disk.syncs_fail = True
            with pytest.raises(StoreUnavailable):
                await grow(store, session.key, 3, 3)
            disk.syncs_fail = False
            seq = (await store.head(session.key)).seq
            await append(store, session.key, entry(seq + 1, long), long)
            await writer.write(parts[3])
            for number in range(3):
                await started(store, f"other {number}", steps=1)
            await writer.write(parts[4])
            await writer.commit(snapshot(2, parts, base=1))

        assert await newest_snapshot(store, session.key) == (
            snapshot(2, parts, base=1),
            joined(parts),
        )
        assert rows(store, session)[1] == 0
        await store.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_snapshot_that_a_full_disk_cut_off_leaves_nothing_for_long(
    tmp_path: Path, shared: bool
) -> None:
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, shared=shared)
        await store.open()
        session, parts = await started(store, steps=1), random_body(1, *[2 * MIB] * 4)
        disk.room = 5 * MIB
        with pytest.raises(StorageFull):
            await put_snapshot(store, session.key, snapshot(1, parts), parts)
        assert list(await store.snapshots(session.key)) == []
        assert await replayed(store, session.key) == expected_log(1, 1)

        disk.room = None
        await append(store, session.key, entry(2, parts), parts)
        assert rows(store, session) == (1 + 8, 0)
        await put_snapshot(store, session.key, snapshot(2, parts), parts)
        assert rows(store, session) == (1 + 8 + 8, 0)
        await store.close()


async def test_a_snapshot_that_is_not_kept_leaves_no_row(sqlite: SqliteStore) -> None:
    session, parts = await started(sqlite, steps=1), random_body(1, *[2 * MIB] * 3)
    await put_snapshot(sqlite, session.key, snapshot(1, parts), parts)
    before = rows(sqlite, session)

    await put_snapshot(sqlite, session.key, snapshot(1, parts), parts)
    async with sqlite.snapshot_writer(session.key) as writer:
        for part in parts:
            await writer.write(part)
    for wrong in (snapshot(1, parts[:1]), snapshot(1, [*parts, *parts])):
        with pytest.raises(ValueError, match="its record says"):
            await put_snapshot(sqlite, session.key, wrong, parts)

    assert before == (1 + 6, 0)
    assert rows(sqlite, session) == before


async def test_a_snapshot_that_lost_rows_while_it_was_written_is_refused(
    sqlite: SqliteStore,
) -> None:
    session, parts = await started(sqlite, steps=1), random_body(1, *[2 * MIB] * 3)
    with pytest.raises(StoreUnavailable, match="was lost while it was written"):
        await write_and_lose_a_row(sqlite, session, snapshot(1, parts), parts)

    assert list(await sqlite.snapshots(session.key)) == []
    assert rows(sqlite, session) == (1, 0)


async def write_and_lose_a_row(
    store: SqliteStore, session: Header, kept: Snapshot, parts: list[memoryview]
) -> None:
    async with store.snapshot_writer(session.key) as writer:
        for part in parts:
            await writer.write(part)
        db = apsw.Connection(str(store._sessions._logs.path(session.key)))
        db.execute("DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)")
        db.close()
        await writer.commit(kept)


async def test_a_snapshot_of_a_session_without_a_file_stands_in_no_ones_way(
    sqlite: SqliteStore,
) -> None:
    session, parts = await started(sqlite), random_body(1, *[2 * MIB] * 2)
    async with sqlite.snapshot_writer(session.key) as writer:
        await writer.write(parts[0])
        await grow(sqlite, session.key, 1, 1)
        await writer.write(parts[1])
        await writer.commit(snapshot(0, parts))

    assert list(await sqlite.snapshots(session.key)) == []
    assert await replayed(sqlite, session.key) == expected_log(1, 1)
