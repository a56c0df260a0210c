"""Backups of a directory that is in use, and what is restored from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from failing_disk import FailingDisk
from store_appender import body_of
from store_logs import (
    EMPTY,
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

from gradstep_server.sessions.errors import SessionCorrupt, StorageFull, StoreUnavailable
from gradstep_server.sessions.store import Header
from gradstep_server.stores.sqlite.backup import backup, restore
from gradstep_server.stores.sqlite.catalogue import Catalogue
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

MIB = 2**20
APPENDER = Path(__file__).parent.parent / "store_appender.py"


def unseen(done: int, total: int) -> None:
    """Take no notice of the progress."""


async def opened(directory: Path, *, shared: bool = False) -> SqliteStore:
    store = SqliteStore(directory, shared=shared)
    await store.open()
    return store


async def filled(store: SqliteStore) -> dict[str, Header]:
    """Fill a store with a session of every kind."""
    sessions = {name: await started(store, name, steps=20) for name in ("stepped", "long")}
    body = random_body(1, 3 * MIB)
    await append(store, sessions["long"].key, entry(21, body), body)
    for seq in (5, 15):
        await put_snapshot(store, sessions["stepped"].key, snapshot(seq, body), body)
    await store.trim(sessions["stepped"].key, 5)
    sessions["empty"] = await started(store, "empty")
    sessions["relaxed"] = await started(store, "relaxed")
    await grow(store, sessions["relaxed"].key, 1, 9, synced=False)
    await store.create(theirs := header("stepped", tenant="bob"), None, ())
    await grow(store, theirs.key, 1, 2)
    await store.delete(await started(store, "deleted", steps=2), 2)
    return sessions


async def check(store: SqliteStore, sessions: dict[str, Header], *, restored: bool) -> None:
    """Hold a store against what `filled` has written."""
    body = random_body(1, 3 * MIB)
    heads = {
        "empty": EMPTY,
        "long": head(21, suspect=restored),
        "relaxed": head(9, suspect=restored),
        "stepped": head(20, trimmed=5, suspect=restored),
    }
    assert await store.list("alice", "", 10) == [(sessions[name], heads[name]) for name in heads]
    stepped, long = sessions["stepped"].key, sessions["long"].key
    assert await replayed(store, stepped, after=5) == expected_log(6, 20)
    assert list(await store.snapshots(stepped)) == [(5, 5), (15, 15)]
    assert await newest_snapshot(store, stepped) == (snapshot(15, body), joined(body))
    wanted = [*expected_log(1, 20), (entry(21, body), joined(body))]
    assert await replayed(store, long) == wanted
    assert await replayed(store, sessions["relaxed"].key) == expected_log(1, 9)
    theirs = await store.load("bob", "stepped")
    assert theirs is not None
    assert await replayed(store, theirs.key) == expected_log(1, 2)
    deleted = await store.load("alice", "deleted")
    assert deleted is not None
    assert deleted.deleted_at is not None


@pytest.mark.parametrize("shared", [False, True])
async def test_a_directory_in_use_is_backed_up_and_restored(tmp_path: Path, shared: bool) -> None:
    store = await opened(tmp_path / "data", shared=shared)
    sessions = await filled(store)
    seen: list[tuple[int, int]] = []

    assert backup(tmp_path / "data", tmp_path / "made" / "copy", lambda *of: seen.append(of)) == 5
    assert restore(tmp_path / "made" / "copy", tmp_path / "restored", unseen) == 5

    await grow(store, sessions["stepped"].key, 21, 22)
    await store.close()
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {seen[-1][0]}
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["copy"]
    for name in ("made/copy", "restored"):
        copy = await opened(tmp_path / name)
        await check(copy, sessions, restored=name == "restored")
        await copy.close()


async def test_a_restored_session_is_no_longer_suspect_once_it_goes_on(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    session = await started(store, steps=3)
    backup(tmp_path / "data", tmp_path / "copy", unseen)
    await grow(store, session.key, 4, 6)
    await store.close()
    restore(tmp_path / "copy", tmp_path / "restored", unseen)

    store = await opened(tmp_path / "restored")
    assert await store.head(session.key) == head(3, suspect=True)
    await grow(store, session.key, 4, 4)
    assert await store.head(session.key) == head(4)
    await store.close()


def back_up_while_another_process_appends(folder: Path, copies: int) -> list[int]:
    """Make copies; return what was acknowledged before each of them, and in the end."""
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, str(APPENDER), str(folder / "data")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as appender:
        assert appender.stdout is not None
        acknowledged = []
        for number in range(copies):
            acknowledged.append(int(appender.stdout.readline()))
            assert backup(folder / "data", folder / f"copy {number}", unseen) == 1
        assert appender.poll() is None
        appender.kill()
        return [*acknowledged, int(appender.stdout.read().split()[-1])]


async def test_a_directory_is_backed_up_while_another_process_appends(tmp_path: Path) -> None:
    *before, acknowledged = back_up_while_another_process_appends(tmp_path, 6)

    copied = []
    for number in range(6):
        copy = await opened(tmp_path / f"copy {number}")
        session = await copy.load("alice", "a")
        assert session is not None
        log = await replayed(copy, session.key)
        copied.append(len(log))
        assert [found for found, _ in log] == [entry(n, body_of(n)) for n in range(1, len(log) + 1)]
        assert [body for _, body in log] == [joined(body_of(n)) for n in range(1, len(log) + 1)]
        await copy.close()
    assert all(known <= length for known, length in zip(before, copied, strict=True))
    assert copied == sorted(copied)
    assert copied[-1] <= acknowledged + 1


def once(do: Callable[[], Any]) -> Callable[[int, int], None]:
    """Return a progress that does something the first time it is told."""
    left = [do]

    def told(done: int, total: int) -> None:
        if left:
            left.pop()()

    return told


async def test_sessions_may_come_and_go_while_they_are_copied(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    sessions = [await started(store, f"s{number}", steps=5) for number in range(6)]
    await started(store, "empty")
    directory = store._sessions

    def change() -> None:
        """Create one, delete three, and step the others, after the catalogue was copied."""
        directory.create(header("new"), entry(1), ())
        for session in sessions[:3]:
            directory.delete(session, 5)
        for session in sessions[3:]:
            directory.append(session.key, entry(6), (), entry(5).seal, synced=True)

    assert backup(tmp_path / "data", tmp_path / "copy", once(change)) == 4
    await store.close()

    copy = await opened(tmp_path / "copy")
    found = await copy.list("alice", "", 10)
    assert [session.id for session, _ in found] == ["empty", "s3", "s4", "s5"]
    assert {stands.seq for _, stands in found[1:]} <= {5, 6}
    for session in sessions[:3]:
        loaded = await copy.load("alice", session.id)
        assert loaded is not None
        assert loaded.deleted_at is not None
    assert len(list((tmp_path / "copy").glob("sessions/??/*.sqlite"))) == 3
    await started(copy, "new")
    await copy.close()


async def test_a_delete_that_is_under_way_is_completed_in_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "data")
    sessions = [await started(store, name, steps=2) for name in "ab"]

    def begin() -> None:
        """Close both logs, and get no further."""
        with monkeypatch.context() as patch:
            patch.setattr(Catalogue, "finish_delete", lambda *_: None)
            patch.setattr(store._sessions._logs, "remove", lambda *_: None)
            for session in sessions:
                store._sessions.delete(session, 2)

    assert backup(tmp_path / "data", tmp_path / "copy", once(begin)) <= 1
    await store.close()

    copy = await opened(tmp_path / "copy")
    for session in sessions:
        loaded = await copy.load("alice", session.id)
        assert loaded is not None
        if loaded.deleted_at is None:  # it was copied before the delete began
            await grow(copy, session.key, 3, 3)
    await copy.close()


@pytest.mark.parametrize("make", [backup, restore])
async def test_a_copy_goes_where_nothing_is(
    tmp_path: Path, make: Callable[[Path, Path, Callable[[int, int], None]], int]
) -> None:
    store = await opened(tmp_path / "data")
    session = await started(store, steps=2)
    await store.close()
    volume = tmp_path / "volume"
    volume.mkdir()
    inode = volume.stat().st_ino

    assert make(tmp_path / "data", volume, unseen) == 1

    assert volume.stat().st_ino == inode
    assert sorted(path.name for path in volume.iterdir()) == ["catalogue.sqlite", "sessions"]
    copy = await opened(volume)
    assert await replayed(copy, session.key) == expected_log(1, 2)
    await copy.close()
    with pytest.raises(StoreUnavailable, match="volume is not empty; choose another directory"):
        make(tmp_path / "data", volume, unseen)
    (tmp_path / "file").write_text("taken")
    with pytest.raises(StoreUnavailable, match="file cannot be written"):
        make(tmp_path / "data", tmp_path / "file", unseen)


async def test_a_copy_may_be_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(tmp_path / "data")
    session = await started(store, steps=2)
    await store.close()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    assert backup(Path("../data"), Path(), unseen) == 1
    assert restore(Path(), Path("../there"), unseen) == 1

    for name in ("here", "there"):
        copy = await opened(tmp_path / name)
        assert await replayed(copy, session.key) == expected_log(1, 2)
        await copy.close()


@pytest.mark.parametrize("exists", [False, True])
async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    store = await opened(tmp_path / "data")
    await started(store, steps=2)
    await store.close()
    target = tmp_path / "copies" / "copy"
    (target if exists else target.parent).mkdir(parents=True)

    def interrupt(done: int, total: int) -> None:
        assert list(target.parent.rglob("*.sqlite")) != []
        assert not (target / "catalogue.sqlite").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(tmp_path / "data", target, interrupt)

    assert list(target.parent.rglob("*")) == ([target] if exists else [])


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with FailingDisk() as disk:
        store = await opened(tmp_path / "data")
        await filled(store)
        disk.room = MIB
        with pytest.raises(StorageFull):
            backup(tmp_path / "data", tmp_path / "copy", unseen)
        disk.room = None
        assert not (tmp_path / "copy").exists()
        assert backup(tmp_path / "data", tmp_path / "copy", unseen) == 5
        await store.close()


def invert(path: Path) -> None:
    """Flip every bit behind the first page."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(byte ^ 0xFF for byte in content[4096:]))


def set_newer(path: Path) -> None:
    db = apsw.Connection(str(path))
    db.pragma("user_version", 99)
    db.close()


DAMAGE: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "inverted": (invert, SessionCorrupt, "The session 'b' is damaged"),
    "cut": (lambda path: os.truncate(path, 9000), SessionCorrupt, "The session 'b' is damaged"),
    "missing": (Path.unlink, SessionCorrupt, "The file of the session 'b' is missing"),
    "empty": (lambda path: path.write_bytes(b""), SessionCorrupt, "is not a gradstep session 'b'"),
    "newer": (set_newer, StoreUnavailable, "session 'b' .* has format 99"),
}


@pytest.mark.parametrize("make", [backup, restore])
@pytest.mark.parametrize("kind", DAMAGE)
async def test_what_is_damaged_is_named_and_not_copied(
    tmp_path: Path, make: Callable[[Path, Path, Callable[[int, int], None]], int], kind: str
) -> None:
    damage, error, message = DAMAGE[kind]
    store = await opened(tmp_path / "data")
    bad = [await started(store, name, steps=30) for name in "abc"][1]
    await store.close()
    damage(store._sessions._logs.path(bad.key))

    with pytest.raises(error, match=message):
        make(tmp_path / "data", tmp_path / "copy", unseen)

    assert not (tmp_path / "copy").exists()


async def test_a_directory_without_a_catalogue_is_no_store(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(StoreUnavailable, match=r"is no store: it has no catalogue\.sqlite"):
            backup(source, tmp_path / "copy", unseen)


async def test_what_is_only_in_a_write_ahead_log_is_copied(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    session = await started(store, steps=5)
    assert list((tmp_path / "data").glob("sessions/??/*-wal")) != []

    backup(tmp_path / "data", tmp_path / "copy", unseen)

    assert list((tmp_path / "copy").glob("sessions/??/*-wal")) == []
    copy = await opened(tmp_path / "copy")
    assert await copy.head(session.key) == head(5)
    assert await replayed(copy, session.key) == expected_log(1, 5)
    await copy.close()
    await store.close()
