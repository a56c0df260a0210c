"""What the SQLite store does when its files are damaged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from store_logs import (
    EMPTY,
    NOON,
    entry,
    expected_log,
    grow,
    head,
    header,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import (
    SequenceTaken,
    SessionCorrupt,
    StoreUnavailable,
)
from gradstep_server.sessions.store import Head
from gradstep_server.stores.sqlite.catalogue import Catalogue
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


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    """Replace the first place that says so."""
    offset = path.read_bytes().index(old)
    overwrite(path, offset, new)


def rename(path: Path) -> None:
    rewrite(path, b"created_at REAL", b"created_au REAL")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no SQLite header": lambda path: overwrite(path, 0, bytes(100)),
    "another application's file": lambda path: overwrite(path, 68, b"abcd"),
    "no format number": lambda path: overwrite(path, 60, bytes(4)),
    "no such format number": lambda path: overwrite(path, 60, b"\x40\0\0\2"),
    "no such format of SQLite's": lambda path: overwrite(path, 44, b"\0\0\0\5"),
    "no statement": lambda path: rewrite(path, b"CREATE TABLE", b"CREATE\0TABLE"),
    "no text": lambda path: rewrite(path, b"CREATE TABLE", b"CREATE\xffTABLE"),
    "inverted pages": invert_pages,
    "truncated": truncate_by_half,
    "empty": empty,
}


async def damaged_store(
    directory: Path, damage: Callable[[Path], None], *, shared: bool = False
) -> SqliteStore:
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
    store = SqliteStore(directory, shared=shared)
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
    listed = {session.id: stands for session, stands in await store.list("alice", "", 10)}
    assert listed["a"].seq == 52
    assert listed["b"] in {EMPTY, head(50)}
    assert "a" not in {session.id for session, _ in await store.idle_since(NOON + 51, 10)}
    await store.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"CREATE TABLE entries", b"CREATE TABLE entrier"),
        (b"entriesentries", b"entrierentries"),
        (b"CREATE TABLE log", b"CREATE TABLE lof"),
        (b"unsynced_in TEXT", b"unsynced_io TEXT"),
        (b"body INTEGER NOT NULL  -- the base", b"bodx INTEGER NOT NULL  -- the base"),
        (b"created_at REAL", b"created_au REAL"),
        (b"created_at REAL", b"created_at RDAL"),
    ],
)
async def test_a_letter_of_a_table_that_is_another_one_is_damage_of_that_session(
    tmp_path: Path, old: bytes, new: bytes
) -> None:
    store = await damaged_store(tmp_path, lambda path: rewrite(path, old, new))
    bad = await store.load("alice", "b")
    assert bad is not None

    async def use(key: str) -> None:
        await replayed(store, key)
        await grow(store, key, 51, 51)

    with pytest.raises(SessionCorrupt):
        await use(bad.key)
    listed = {session.id: stands for session, stands in await store.list("alice", "", 10)}
    assert listed["a"] == listed["c"] == head(50)
    assert listed["b"] in {EMPTY, head(50)}
    idle = {session.id for session, _ in await store.idle_since(NOON + 1000, 10)}
    assert {"a", "c"} <= idle
    await store.close()


async def test_a_question_that_is_wrong_is_not_taken_for_damage(sqlite: SqliteStore) -> None:
    session = await started(sqlite, steps=1)

    with (
        pytest.raises(StoreUnavailable, match="no such column: nonsense"),
        sqlite._sessions._logs.use(session.key) as log,
        log.use() as db,
    ):
        db.execute("SELECT nonsense FROM entries")


async def test_a_session_of_a_newer_format_keeps_no_other_from_being_listed(
    tmp_path: Path,
) -> None:
    store = await damaged_store(tmp_path, lambda path: overwrite(path, 63, b"\7"))
    newer = await store.load("alice", "b")
    assert newer is not None

    with pytest.raises(StoreUnavailable, match=r"has format 7, .* run a newer gradstep"):
        await replayed(store, newer.key)
    listed = {session.id: stands for session, stands in await store.list("alice", "", 10)}
    assert listed == {"a": head(50), "b": EMPTY, "c": head(50)}
    assert [found.id for found, _ in await store.idle_since(NOON + 1000, 10)].count("b") == 0
    await store.close()


def mistype(path: Path, column: str, update: str) -> None:
    """Make a change that the type of a column forbids."""
    name, kind = column.split()
    rename = "PRAGMA writable_schema = on; UPDATE sqlite_schema SET sql = replace(sql, ?, ?)"
    for script, bindings in (
        (rename, (column, f"{name} ANY")),
        (update, ()),
        (rename, (f"{name} ANY", f"{name} {kind}")),
    ):
        with closing(apsw.Connection(str(path))) as db:
            db.execute(script, bindings)


async def test_an_entry_that_holds_something_else_is_damaged(sqlite: SqliteStore) -> None:
    session = await started(sqlite, steps=5)
    path = sqlite._sessions._logs.path(session.key)
    mistype(path, "created_at REAL", "UPDATE entries SET created_at = 'noon' WHERE seq = 5")

    with pytest.raises(SessionCorrupt, match="Entry 5 is damaged"):
        await sqlite.head(session.key)
    assert [stands for _, stands in await sqlite.list("alice", "", 10)] == [EMPTY]
    assert await sqlite.idle_since(NOON + 1000, 10) == []


@pytest.mark.parametrize(
    ("column", "update", "is_listed"),
    [
        ("base INTEGER", "UPDATE snapshots SET base = 'x'", False),
        ("record BLOB", "UPDATE snapshots SET record = '{}'", True),
        ("body_size INTEGER", "UPDATE snapshots SET body_size = 1.5", True),
    ],
)
async def test_a_snapshot_that_holds_something_else_is_damaged(
    sqlite: SqliteStore, column: str, update: str, is_listed: bool
) -> None:
    session, body = await started(sqlite, steps=1), random_body(1, MIB)
    await put_snapshot(sqlite, session.key, snapshot(1, body), body)
    mistype(sqlite._sessions._logs.path(session.key), column, update)

    if is_listed:
        assert await sqlite.snapshots(session.key) == [(1, 1)]
    else:
        with pytest.raises(SessionCorrupt, match="snapshot at entry 1 is damaged"):
            await sqlite.snapshots(session.key)
    with pytest.raises(SessionCorrupt, match="snapshot at entry 1 is damaged"):
        await sqlite.snapshot(session.key, 1)


def lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("tried", [False, True])
@pytest.mark.parametrize("damage", [*DAMAGE.values(), lose], ids=[*DAMAGE, "lost"])
async def test_a_damaged_session_can_be_deleted(
    tmp_path: Path, damage: Callable[[Path], None], tried: bool, shared: bool
) -> None:
    """Also after a delete that asked where its log stands, and got no answer."""
    store = await damaged_store(tmp_path, damage, shared=shared)
    bad = await store.load("alice", "b")
    assert bad is not None
    if tried:
        with pytest.raises(SessionCorrupt):
            await store.delete(bad, 50)
        assert await store.load("alice", "b") == bad
        assert "b" in {session.id for session, _ in await store.list("alice", "", 10)}

    await store.delete(bad, None)
    await store.delete(bad, None)

    deleted = await store.load("alice", "b")
    assert deleted is not None
    assert deleted.deleted_at is not None
    assert [session.id for session, _ in await store.list("alice", "", 10)] == ["a", "c"]
    assert await store.head(bad.key) == Head(0, 0, 0.0)
    with pytest.raises(SequenceTaken):
        await grow(store, bad.key, 51, 51)
    assert not store._sessions._logs.path(bad.key).exists()
    await store.close()


async def test_a_delete_of_a_damaged_session_that_a_crash_cut_off_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await damaged_store(tmp_path, invert_pages)
    bad = await store.load("alice", "b")
    assert bad is not None
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "finish_delete", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await store.delete(bad, None)
    await store.close()

    store = SqliteStore(tmp_path)
    await store.open()
    assert await store.load("alice", "b") == bad
    with pytest.raises(SessionCorrupt):
        await replayed(store, bad.key)
    await store.delete(bad, None)
    assert [session.id for session, _ in await store.list("alice", "", 10)] == ["a", "c"]
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
    await put_snapshot(sqlite, session.key, snapshot(1, body), body)
    db = apsw.Connection(str(sqlite._sessions._logs.path(session.key)))
    db.execute("DELETE FROM chunks WHERE id = (SELECT max(id) FROM chunks)")
    db.close()

    with pytest.raises(SessionCorrupt, match="body of snapshot 1 is not complete"):
        await newest_snapshot(sqlite, session.key)


@pytest.mark.parametrize("damage", [*DAMAGE.values(), rename], ids=[*DAMAGE, "renamed"])
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


async def test_a_catalogue_that_vanishes_makes_the_store_unavailable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, shared=True)
    await store.open()
    (tmp_path / "catalogue.sqlite").unlink()

    with pytest.raises(StoreUnavailable, match=r"The catalogue .* is missing"):
        await store.load("alice", "a")

    await store.close()
