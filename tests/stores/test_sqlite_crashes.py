"""What SQLite stores promise when the process or the power goes away."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
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
    header,
    joined,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import SequenceTaken, SessionCorrupt, StoreUnavailable
from gradstep_server.stores.sqlite import bodies
from gradstep_server.stores.sqlite.catalogue import Catalogue
from gradstep_server.stores.sqlite.logs import OpenLogs
from gradstep_server.stores.sqlite.snapshots import SnapshotDraft
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

MIB = 2**20
APPENDER = Path(__file__).parent.parent / "store_appender.py"


class Crash(BaseException):
    """Stands for the end of the process at the place where it is raised."""


def crash(*_: object, **__: object) -> None:
    raise Crash


async def opened(directory: Path) -> SqliteStore:
    store = SqliteStore(directory)
    await store.open()
    return store


async def reopened(store: SqliteStore, directory: Path) -> SqliteStore:
    """Let go of the directory as a dead process does, and open it anew."""
    store._lock.release()
    return await opened(directory)


def session_files(directory: Path) -> set[str]:
    return {path.name for path in (directory / "sessions").glob("??/*")}


def run_and_kill(directory: Path, seconds: float, *flags: str) -> int:
    """Let the appender run for a while, kill it, and return the last sequence it printed."""
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, str(APPENDER), str(directory), *flags],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as appender:
        assert appender.stdout is not None
        first = appender.stdout.readline()
        time.sleep(seconds)
        appender.kill()
        rest = appender.stdout.read()
    lines = (first + rest).split(b"\n")[:-1]
    return int(lines[-1])


@pytest.mark.parametrize("flags", [(), ("unsynced",)], ids=["synced", "unsynced"])
async def test_a_killed_process_loses_no_acknowledged_append(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    source, checked = random.Random(1), 0
    for _ in range(8):
        acknowledged = run_and_kill(tmp_path / "data", source.uniform(0.0, 0.08), *flags)

        store = await opened(tmp_path / "data")
        session = await store.load("alice", "a")
        assert session is not None
        kept = await replayed(store, session.key, after=checked)
        assert not (await store.head(session.key)).suspect
        await store.close()

        assert checked < acknowledged <= checked + len(kept) <= acknowledged + 1
        for found, body in kept:
            assert found == entry(found.seq, body_of(found.seq))
            assert body == joined(body_of(found.seq))
        checked += len(kept)


async def write_until_the_power_fails(store: SqliteStore, key: str) -> tuple[int, int]:
    """Return the last entry and the last snapshot that were acknowledged."""
    entries, snapshots = 1, 0
    try:
        while True:
            seq, body = entries + 1, body_of(entries + 1)
            await append(store, key, entry(seq, body), body)
            entries = seq
            if seq % 3 == 0:
                await put_snapshot(store, key, snapshot(seq, body), body)
                snapshots = seq
                await store.trim(key, seq - 3)
    except StoreUnavailable:
        return entries, snapshots


@pytest.mark.parametrize("seed", range(16))
async def test_a_power_loss_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    source, session = random.Random(seed), header()
    with FailingDisk() as disk:
        store = await opened(tmp_path / "data")
        await store.create(session, entry(1, body_of(1)), body_of(1))
        disk.writes_left = source.randint(10, 5000)
        entries, snapshots = await write_until_the_power_fails(store, session.key)
        await store.close()
        disk.lose_power(source)

    store = await opened(tmp_path / "data")
    assert entries <= (await store.head(session.key)).seq <= entries + 1
    kept = await newest_snapshot(store, session.key)
    newest = 0 if kept is None else kept[0].seq
    assert snapshots <= newest <= entries
    assert kept is None or kept[1] == joined(body_of(newest))
    log = await replayed(store, session.key, after=max(newest - 3, 0))
    await store.close()

    assert log[-1][0].seq >= entries
    for found, body in log:
        assert found == entry(found.seq, body_of(found.seq))
        assert body == joined(body_of(found.seq))


async def test_after_a_failed_sync_the_log_is_read_from_disk_again(tmp_path: Path) -> None:
    with FailingDisk() as disk:
        store = await opened(tmp_path / "data")
        session = await started(store, steps=2)
        disk.syncs_fail = True
        with pytest.raises(StoreUnavailable, match="did not sync"):
            await grow(store, session.key, 3, 3)
        syncs = disk.syncs
        with pytest.raises(StoreUnavailable, match="did not sync"):
            await store.head(session.key)
        assert disk.syncs == syncs + 1  # what is readable is synced anew before it is read

        disk.syncs_fail = False
        head = (await store.head(session.key)).seq
        await grow(store, session.key, head + 1, 5)
        assert await replayed(store, session.key) == expected_log(1, 5)
        await store.close()


async def test_a_crash_before_the_catalogue_knows_a_session_leaves_nothing(
    sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = random_body(1, 3 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "add", crash)
        with pytest.raises(Crash):
            await sqlite.create(header(), entry(1, body), body)
    assert session_files(tmp_path / "data") != set()

    store = await reopened(sqlite, tmp_path / "data")

    assert session_files(tmp_path / "data") == set()
    assert await store.load("alice", "a") is None
    await store.create(header(), entry(1, body), body)
    await store.close()


async def test_a_crash_before_a_log_is_marked_as_written_leaves_it_empty(
    sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await started(sqlite)
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "mark_written", crash)
        with pytest.raises(Crash):
            await grow(sqlite, session.key, 1, 1)

    store = await reopened(sqlite, tmp_path / "data")

    assert (await store.head(session.key)).seq == 0
    await grow(store, session.key, 1, 2)
    assert await replayed(store, session.key) == expected_log(1, 2)
    await store.close()


async def test_a_crash_amid_a_long_body_leaves_no_chunks(
    sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, body = await started(sqlite, steps=1), random_body(2, 5 * MIB)
    with monkeypatch.context() as patch:
        patch.setattr(bodies, "commit", crash)
        patch.setattr(SnapshotDraft, "abandon", crash)
        with pytest.raises(Crash):
            await append(sqlite, session.key, entry(2, body), body)
        with pytest.raises(Crash):
            await put_snapshot(sqlite, session.key, snapshot(1, body), body)

    store = await reopened(sqlite, tmp_path / "data")

    assert await replayed(store, session.key) == expected_log(1, 1)
    path = store._sessions._logs.path(session.key)
    await store.close()
    db = apsw.Connection(str(path))
    assert db.execute("SELECT count(*) FROM chunks").get == 1
    assert db.execute("SELECT count(*) FROM pending").get == 0
    db.close()


@pytest.mark.parametrize(
    ("place", "method"), [(Catalogue, "finish_delete"), (OpenLogs, "remove")], ids=str
)
@pytest.mark.parametrize("look", ["load", "list", "delete"])
async def test_a_delete_that_a_crash_cut_off_is_completed(
    sqlite: SqliteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: type,
    method: str,
    look: str,
) -> None:
    session = await started(sqlite, steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(place, method, crash)
        with pytest.raises(Crash):
            await sqlite.delete(session, 3)

    store = await reopened(sqlite, tmp_path / "data")

    if look == "list":
        assert await store.list("alice", "", 10) == []
    elif look == "delete":
        await store.delete(session, 3)
    loaded = await store.load("alice", "a")
    assert loaded is not None
    assert loaded.deleted_at is not None
    with pytest.raises(SequenceTaken):
        await grow(store, session.key, 4, 4)
    assert session_files(tmp_path / "data") == set()
    await store.close()


async def test_a_delete_that_a_crash_cut_off_before_it_closed_the_log_did_not_happen(
    sqlite: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await started(sqlite, steps=3)
    with monkeypatch.context() as patch:
        patch.setattr("gradstep_server.stores.sqlite.log.LogFile.close_log", crash)
        with pytest.raises(Crash):
            await sqlite.delete(session, 3)

    store = await reopened(sqlite, tmp_path / "data")

    assert await store.load("alice", "a") == session
    await grow(store, session.key, 4, 4)
    assert await replayed(store, session.key) == expected_log(1, 4)
    await store.delete(session, 4)
    await store.close()


async def test_files_that_belong_to_no_session_are_swept(tmp_path: Path) -> None:
    first = await opened(tmp_path / "data")
    session = await started(first, steps=1)
    folder = first._sessions._logs.path(session.key).parent
    await first.close()
    for name in (f"{folder.name}00.sqlite", f"{folder.name}00.sqlite-wal", "left.1234.new"):
        (folder / name).write_bytes(b"left behind")

    store = await opened(tmp_path / "data")

    assert session_files(tmp_path / "data") == {f"{session.key}.sqlite"}
    assert await replayed(store, session.key) == expected_log(1, 1)
    await store.close()


async def test_a_lost_session_file_is_reported(tmp_path: Path) -> None:
    first = await opened(tmp_path / "data")
    lost, other = await started(first, "a", steps=1), await started(first, "b", steps=1)
    await first.close()
    store = SqliteStore(tmp_path / "data")
    store._sessions._logs.path(lost.key).unlink()
    await store.open()

    with pytest.raises(SessionCorrupt, match="missing"):
        await store.head(lost.key)
    with pytest.raises(SessionCorrupt, match="missing"):
        await grow(store, lost.key, 1, 1)
    assert await replayed(store, other.key) == expected_log(1, 1)
    await store.close()


async def test_no_session_is_swept_when_the_catalogue_is_lost(tmp_path: Path) -> None:
    first = await opened(tmp_path / "data")
    session = await started(first, steps=1)
    await first.close()
    (tmp_path / "data" / "catalogue.sqlite").unlink()

    store = SqliteStore(tmp_path / "data")
    with pytest.raises(StoreUnavailable, match="holds sessions and no catalogue"):
        await store.open()

    assert session_files(tmp_path / "data") == {f"{session.key}.sqlite"}
