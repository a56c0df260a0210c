"""What the SQLite store does when the disk is full."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from failing_disk import FailingDisk
from file_limit import largest_file
from store_logs import (
    append,
    entry,
    expected_log,
    grow,
    header,
    joined,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import StorageFull
from gradstep_server.stores.sqlite.backup import backup
from gradstep_server.stores.sqlite.catalogue import Catalogue
from gradstep_server.stores.sqlite.reserve import SIZE, Reserve
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

MIB = 2**20


@contextmanager
def lending(disk: FailingDisk) -> Iterator[None]:
    """Fill a disk; while the store lends its reserve there is as much space as that took."""
    lent = Reserve.lent

    @contextmanager
    def measured(reserve: Reserve) -> Iterator[None]:
        assert reserve.path.stat().st_size == SIZE
        with lent(reserve):
            assert not reserve.path.exists()
            disk.room = SIZE
            yield
            disk.room = 0
        assert reserve.path.stat().st_size == SIZE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reserve, "lent", measured)
        disk.room = 0
        yield
        disk.room = None


@pytest.mark.parametrize("size", [MIB, 6 * MIB])
async def test_on_a_full_disk_writes_are_refused_reads_go_on_and_nothing_is_lost(
    sqlite: SqliteStore, size: int
) -> None:
    session, body = await started(sqlite, steps=3), random_body(1, size)

    with largest_file(400_000):
        with pytest.raises(StorageFull, match="disk is full"):
            await append(sqlite, session.key, entry(4, body), body)
        with pytest.raises(StorageFull):
            await put_snapshot(sqlite, session.key, snapshot(3, body), body)
        with pytest.raises(StorageFull):
            await sqlite.create(other := header("b"), entry(1, body), body)
        assert await replayed(sqlite, session.key) == expected_log(1, 3)
        assert await sqlite.load("alice", "b") is None
        await grow(sqlite, session.key, 4, 4)

    await append(sqlite, session.key, entry(5, body), body)
    await sqlite.create(other, entry(1, body), body)
    assert await replayed(sqlite, session.key, after=4) == [(entry(5, body), joined(body))]
    assert await replayed(sqlite, other.key) == [(entry(1, body), joined(body))]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("anywhere", [False, True])
async def test_a_full_disk_keeps_no_session_from_being_deleted(
    tmp_path: Path, anywhere: bool, shared: bool
) -> None:
    """Though there is no room for what a delete writes, but what was put by for it."""
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, shared=shared)
        await store.open()
        stepped, body = await started(store, "stepped", steps=3), random_body(1, 3 * MIB)
        empty_one, other = await started(store, "empty"), await started(store, "other", steps=2)

        with lending(disk):
            with pytest.raises(StorageFull):
                await append(store, stepped.key, entry(4, body), body)
            await store.delete(stepped, None if anywhere else 3)
            await store.delete(empty_one, None if anywhere else 0)
            assert [session for session, _ in await store.list("alice", "", 10)] == [other]
            assert await replayed(store, other.key) == expected_log(1, 2)
        await store.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_delete_that_was_cut_off_keeps_no_one_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, shared=shared)
        await store.open()
        deleted, other = await started(store, "a", steps=3), await started(store, "b", steps=2)
        with monkeypatch.context() as patch:
            patch.setattr(Catalogue, "finish_delete", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await store.delete(deleted, 3)

        with lending(disk):
            assert [session for session, _ in await store.list("alice", "", 10)] == [other]
            found = await store.load("alice", "a")
            assert found is not None
            assert found.deleted_at is not None
        await store.close()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_store_that_was_killed_on_a_full_disk_starts_and_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: bool
) -> None:
    """Not a byte may be written: not who has the directory, nor what SQLite puts beside a file."""
    store = SqliteStore(tmp_path / "first", shared=shared)
    await store.open()
    session, other = await started(store, "a", steps=3), await started(store, "b", steps=2)
    ignored = shutil.ignore_patterns("*-shm")
    data = Path(shutil.copytree(tmp_path / "first", tmp_path / "killed", ignore=ignored))
    await store.close()

    store = SqliteStore(data, shared=shared)
    with largest_file(0):
        await store.open()
        assert "can be read, and not written: The disk is full" in caplog.text
        assert len(await store.list("alice", "", 10)) == 2
        for _ in range(2):
            assert await replayed(store, session.key) == expected_log(1, 3)
            with pytest.raises(StorageFull):
                await grow(store, session.key, 4, 4)
            with pytest.raises(StorageFull):
                await store.check()

    await store.check()
    await grow(store, session.key, 4, 5)
    assert await replayed(store, session.key) == expected_log(1, 5)
    assert await replayed(store, other.key) == expected_log(1, 2)
    assert backup(data, tmp_path / "copy", lambda _done, _total: None) == 2
    await store.close()


async def test_a_store_on_a_full_disk_fails_its_check(sqlite: SqliteStore) -> None:
    with largest_file(0), pytest.raises(StorageFull):
        await sqlite.check()

    await sqlite.check()
    assert await sqlite.list("alice", "", 10) == []


@pytest.mark.parametrize("shared", [False, True])
async def test_what_a_full_disk_cut_off_is_swept_when_there_is_space_again(
    tmp_path: Path, *, shared: bool
) -> None:
    body = random_body(1, 3 * MIB)
    with FailingDisk() as disk:
        store = SqliteStore(tmp_path, shared=shared)
        await store.open()
        session = await started(store, steps=3)
        await append(store, session.key, entry(4, body), body)
        disk.room = 2 * MIB
        with pytest.raises(StorageFull, match="disk is full"):
            await append(store, session.key, entry(5, body), body)
        for _ in range(3):
            with pytest.raises(StorageFull):
                await append(store, session.key, entry(5, body), body)
        disk.room = 0
        assert (await store.head(session.key)).seq == 4
        assert await replayed(store, session.key, after=3) == [(entry(4, body), joined(body))]

        disk.room = None
        await append(store, session.key, entry(5, body), body)
        assert await replayed(store, session.key, after=4) == [(entry(5, body), joined(body))]
        path = store._sessions._logs.path(session.key)
        await store.close()

    db = apsw.Connection(str(path))
    assert db.execute("SELECT count(*) FROM chunks").get == 3 + 3 + 3
    assert db.execute("SELECT count(*) FROM pending").get == 0
    db.close()


async def test_a_draft_that_cannot_be_removed_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gradstep_server.stores.sqlite.schema.unlink", full)
    store = SqliteStore(tmp_path)
    await store.open()
    session = await started(store, steps=2)
    assert await replayed(store, session.key) == expected_log(1, 2)
    await store.close()
