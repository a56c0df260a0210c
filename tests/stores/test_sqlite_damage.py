"""What the SQLite store does when its files are damaged or the disk is full."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from failing_disk import FailingDisk
from store_logs import (
    NOON,
    entry,
    expected_log,
    grow,
    header,
    joined,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import SessionCorrupt, StorageFull, StoreUnavailable
from gradstep_server.sessions.store import Head
from gradstep_server.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

MIB = 2**20


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def invert_pages(path: Path) -> None:
    """Flip every bit behind the first page."""
    content = path.read_bytes()[4096:]
    overwrite(path, 4096, bytes(byte ^ 0xFF for byte in content))


def truncate_by_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no SQLite header": lambda path: overwrite(path, 0, bytes(100)),
    "another application's file": lambda path: overwrite(path, 68, b"abcd"),
    "no format number": lambda path: overwrite(path, 60, bytes(4)),
    "inverted pages": invert_pages,
    "truncated": truncate_by_half,
    "empty": lambda path: (path.write_bytes(b"") and None) or None,
}


async def damaged_store(directory: Path, damage: Callable[[Path], None]) -> SqliteStore:
    """Return an open store whose session ``b`` of three is damaged on disk."""
    store = SqliteStore(directory)
    await store.open()
    for session_id in "abc":
        session = header(session_id)
        await store.create(session, None, ())
        await grow(store, session.key, 1, 50)
    bad = await store.load("alice", "b")
    assert bad is not None
    await store.close()
    damage(store._sessions._logs.path(bad.key))
    store = SqliteStore(directory)
    await store.open()
    return store


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_session_is_reported_and_the_others_work(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = await damaged_store(tmp_path, damage)
    good, bad = await store.load("alice", "a"), await store.load("alice", "b")
    assert good is not None
    assert bad is not None

    with pytest.raises(SessionCorrupt):
        await replayed(store, bad.key)
    with pytest.raises(SessionCorrupt):
        await grow(store, bad.key, 51, 51)
    with pytest.raises(SessionCorrupt):
        await store.delete(bad, 50)
    await grow(store, good.key, 51, 52)

    assert await replayed(store, good.key) == expected_log(1, 52)
    listed = {session.id: head for session, head in await store.list("alice", "", 10)}
    assert listed["a"].seq == 52
    assert listed["b"] in {Head(0, 0, NOON), Head(50, 50, NOON + 50.1)}
    assert "a" not in {session.id for session, _ in await store.idle_since(NOON + 51, 10)}
    await store.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM entries WHERE seq = 3", "Entry 3 is missing"),
        ("DELETE FROM chunks WHERE id >> 20 = 3", "body of entry 3 is not complete"),
        ("UPDATE chunks SET data = x'00' WHERE id >> 20 = 3", "body of entry 3 is not complete"),
        ("UPDATE entries SET body_size = 9 WHERE seq = 3", "body of entry 3 is not complete"),
        ("UPDATE entries SET body = 0 WHERE seq = 3", "body of entry 3 is not complete"),
    ],
)
async def test_what_is_missing_is_named(sqlite: SqliteStore, damage: str, message: str) -> None:
    session = await started(sqlite, steps=5)
    db = apsw.Connection(str(sqlite._sessions._logs.path(session.key)))
    db.execute(damage)
    db.close()

    with pytest.raises(SessionCorrupt, match=message):
        await replayed(sqlite, session.key)

    assert await replayed(sqlite, session.key, after=3) == expected_log(4, 5)


async def test_chunks_that_moved_are_not_taken_for_the_body(sqlite: SqliteStore) -> None:
    session, body = header(), random_body(1, 3 * MIB)
    await sqlite.create(session, entry(1, body), body)
    db = apsw.Connection(str(sqlite._sessions._logs.path(session.key)))
    db.execute("UPDATE chunks SET id = id + 7 WHERE id & 1")
    db.close()

    with pytest.raises(SessionCorrupt, match="body of entry 1 is not complete"):
        await replayed(sqlite, session.key)


async def test_a_snapshot_without_its_body_is_reported(sqlite: SqliteStore) -> None:
    session, body = await started(sqlite, steps=1), random_body(1, 3 * MIB)
    await sqlite.put_snapshot(session.key, snapshot(1, body), body)
    db = apsw.Connection(str(sqlite._sessions._logs.path(session.key)))
    db.execute("DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)")
    db.close()

    with pytest.raises(SessionCorrupt, match="body of snapshot 1 is not complete"):
        await sqlite.snapshot(session.key)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_a_damaged_catalogue_makes_the_store_unavailable(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    for number in range(100):
        await store.create(header(f"s{number}"), None, ())
    await store.close()
    damage(tmp_path / "catalogue.sqlite")

    store = SqliteStore(tmp_path)

    async def use() -> None:
        await store.open()
        await store.list("alice", "", 1000)

    with pytest.raises(StoreUnavailable):
        await use()
    await store.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond `size`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [MIB, 6 * MIB])
async def test_on_a_full_disk_writes_are_refused_reads_go_on_and_nothing_is_lost(
    sqlite: SqliteStore, size: int
) -> None:
    session, body = await started(sqlite, steps=3), random_body(1, size)

    with largest_file(400_000):
        with pytest.raises(StorageFull, match="disk is full"):
            await sqlite.append(session.key, entry(4, body), body)
        with pytest.raises(StorageFull):
            await sqlite.put_snapshot(session.key, snapshot(3, body), body)
        with pytest.raises(StorageFull):
            await sqlite.create(other := header("b"), entry(1, body), body)
        assert await replayed(sqlite, session.key) == expected_log(1, 3)
        assert await sqlite.load("alice", "b") is None
        await grow(sqlite, session.key, 4, 4)

    await sqlite.append(session.key, entry(5, body), body)
    await sqlite.create(other, entry(1, body), body)
    assert await replayed(sqlite, session.key, after=4) == [(entry(5, body), joined(body))]
    assert await replayed(sqlite, other.key) == [(entry(1, body), joined(body))]


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
        await store.append(session.key, entry(4, body), body)
        disk.room = 2 * MIB
        with pytest.raises(StorageFull, match="disk is full"):
            await store.append(session.key, entry(5, body), body)
        for _ in range(3):
            with pytest.raises(StorageFull):
                await store.append(session.key, entry(5, body), body)
        disk.room = 0
        assert (await store.head(session.key)).seq == 4
        assert await replayed(store, session.key, after=3) == [(entry(4, body), joined(body))]

        disk.room = None
        await store.append(session.key, entry(5, body), body)
        assert await replayed(store, session.key, after=4) == [(entry(5, body), joined(body))]
        path = store._sessions._logs.path(session.key)
        await store.close()

    db = apsw.Connection(str(path))
    assert db.execute("SELECT count(*) FROM chunks").get == 3 + 3 + 3
    assert db.execute("SELECT count(*) FROM pending").get == 0
    db.close()


async def test_a_catalogue_that_vanishes_makes_the_store_unavailable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, shared=True)
    await store.open()
    (tmp_path / "catalogue.sqlite").unlink()

    with pytest.raises(StoreUnavailable, match=r"The catalogue .* is missing"):
        await store.load("alice", "a")

    await store.close()
