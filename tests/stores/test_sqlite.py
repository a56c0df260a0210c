"""What only the SQLite store has: a directory, its lock, pages, threads and sharing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest
from store_logs import (
    append,
    entry,
    expected_log,
    grow,
    header,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
    step_body,
)

from gradstep_server.sessions.errors import SequenceTaken, StoreUnavailable
from gradstep_server.sessions.store import Header
from gradstep_server.stores.memory import MemoryStore
from gradstep_server.stores.sqlite.catalogue import Catalogue
from gradstep_server.stores.sqlite.log import LogFile
from gradstep_server.stores.sqlite.store import SqliteStore
from gradstep_server.stores.urls import open_store

pytestmark = pytest.mark.anyio

MIB = 2**20


def session_file(store: SqliteStore, session: Header) -> Path:
    return store._sessions._logs.path(session.key)


def count_open_files(directory: Path) -> int:
    """Count write-ahead logs: SQLite removes one when its last connection is closed."""
    return len(list(directory.glob("sessions/??/*-wal")))


def open_links(key: str) -> list[Path]:
    """Return the files of a session that this process has open, one for each descriptor."""
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.name.startswith(key)]


@pytest.mark.parametrize(
    "directory", ["data", "some/where", "/absolute/dir"], ids=["relative", "nested", "absolute"]
)
def test_a_url_names_the_directory(directory: str) -> None:
    store = open_store(f"sqlite:///{directory}", shared=True)

    assert isinstance(store, SqliteStore)
    assert store._path == Path.cwd() / directory
    assert store.url == f"sqlite:///{Path.cwd() / directory}"
    assert store.shared
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize(
    "url", ["", "data", "sqlite://", "sqlite:///", "sqlite://data", "mysql://x"]
)
def test_a_url_that_selects_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no store; use sqlite:///DIR"):
        open_store(url)


def test_memory_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        open_store("memory://", shared=True)


async def test_a_second_process_is_refused_and_told_who_has_the_directory(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    program = (
        "import asyncio\nfrom pathlib import Path\n"
        "from gradstep_server.stores.sqlite.store import SqliteStore\n"
        f"asyncio.run(SqliteStore(Path({str(tmp_path / 'data')!r})).open())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    _, message = await process.communicate()

    assert process.returncode == 1
    assert f"is in use by process {os.getpid()}; stop it" in message.decode()


@pytest.mark.parametrize("first_shares", [True, False])
async def test_sharing_must_be_agreed_on(tmp_path: Path, *, first_shares: bool) -> None:
    first = SqliteStore(tmp_path, shared=first_shares)
    await first.open()

    with pytest.raises(StoreUnavailable, match="is in use by process"):
        await SqliteStore(tmp_path, shared=not first_shares).open()

    await first.close()
    second = SqliteStore(tmp_path, shared=not first_shares)
    await second.open()
    await second.close()


async def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    with pytest.raises(StoreUnavailable, match=r"cannot be used by user \d+: .* Name a directory"):
        await SqliteStore(tmp_path / "file" / "data").open()


async def test_the_directory_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    store = SqliteStore(tmp_path / "data")
    await store.open()

    session = await started(store, steps=2)

    assert await replayed(store, session.key) == expected_log(1, 2)
    assert (tmp_path / "volume" / "catalogue.sqlite").exists()
    await store.close()


@pytest.mark.parametrize(("name", "knows"), [("the catalogue", 2), ("a session", 2)])
async def test_a_file_of_a_newer_format_is_refused(tmp_path: Path, name: str, knows: int) -> None:
    store = SqliteStore(tmp_path)
    await store.open()
    session = await started(store, steps=1)
    await store.close()
    catalogue = tmp_path / "catalogue.sqlite"
    db = apsw.Connection(str(catalogue if "catalogue" in name else session_file(store, session)))
    db.pragma("user_version", knows + 1)
    db.close()

    store = SqliteStore(tmp_path)

    async def use() -> None:
        await store.open()
        await store.head(session.key)

    refusal = rf"has format {knows + 1}, .* knows {knows}; run a newer gradstep"
    with pytest.raises(StoreUnavailable, match=refusal):
        await use()
    await store.close()


@pytest.mark.parametrize(("size", "page"), [(0, 4096), (MIB - 1, 4096), (MIB, 65536)])
@pytest.mark.parametrize("with_first_entry", [True, False])
async def test_pages_suit_the_first_body(
    sqlite: SqliteStore, size: int, page: int, *, with_first_entry: bool
) -> None:
    session, body = header(), random_body(1, size)
    await sqlite.create(session, entry(1, body) if with_first_entry else None, body)
    if not with_first_entry:
        await append(sqlite, session.key, entry(1, body), body)

    db = apsw.Connection(str(session_file(sqlite, session)))

    assert db.pragma("page_size") == page
    assert db.pragma("journal_mode") == "wal"
    db.close()


async def test_a_session_without_an_entry_has_no_file(sqlite: SqliteStore) -> None:
    session = await started(sqlite)

    assert not session_file(sqlite, session).exists()
    await sqlite.delete(session, 0)
    assert not session_file(sqlite, session).exists()


async def test_a_deleted_session_leaves_no_file(sqlite: SqliteStore) -> None:
    session = await started(sqlite, steps=2)
    folder = session_file(sqlite, session).parent

    await sqlite.delete(session, 2)

    assert list(folder.iterdir()) == []


async def test_the_loser_of_a_race_for_an_id_leaves_no_file(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    body = random_body(1, 2 * MIB)
    await asyncio.gather(
        *(sqlite.create(header(), entry(1, body), body) for _ in range(8)), return_exceptions=True
    )
    winner = await sqlite.load("alice", "a")

    assert winner is not None
    files = (tmp_path / "data" / "sessions").glob("??/*.sqlite")
    assert list(files) == [session_file(sqlite, winner)]


async def test_trimmed_space_is_used_again(sqlite: SqliteStore) -> None:
    session = await started(sqlite, steps=1)
    sizes = []
    for seq in range(2, 32):
        body = random_body(seq, 2 * MIB)
        await append(sqlite, session.key, entry(seq, body), body)
        await put_snapshot(sqlite, session.key, snapshot(seq, body), body)
        await sqlite.trim(session.key, seq - 1)
        path = session_file(sqlite, session)
        sizes.append(path.stat().st_size + path.with_name(path.name + "-wal").stat().st_size)

    assert max(sizes) < 40 * MIB  # of 120 MiB that were written


async def test_only_so_many_files_are_open_at_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, open_files=4)
    await store.open()
    sessions = [await started(store, f"s{number}", steps=1) for number in range(20)]
    await asyncio.gather(*(grow(store, session.key, 2, 5) for session in sessions))

    assert 1 <= count_open_files(tmp_path) <= 4
    for session in sessions:
        assert await replayed(store, session.key) == expected_log(1, 5)
    await store.close()


async def test_a_file_that_is_being_closed_is_waited_for_and_not_opened_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, open_files=1)
    await store.open()
    first, second = [await started(store, name, steps=1) for name in ("first", "second")]
    closing, close = threading.Event(), LogFile.close
    may_close = threading.Event()

    def close_late(log: LogFile) -> None:
        closing.set()
        assert may_close.wait(10)
        close(log)

    with monkeypatch.context() as patched:
        patched.setattr(LogFile, "close", close_late)
        using = asyncio.ensure_future(store.head(first.key))  # so the second is one too many
        assert await asyncio.to_thread(closing.wait, 10)
        with store._sessions._logs.use(second.key) as log:
            assert log.head() is not None
            assert sum(link.name.endswith("-wal") for link in open_links(second.key)) == 1
            may_close.set()
        await using
    assert count_open_files(tmp_path) == 1
    await store.close()


async def test_the_event_loop_goes_on_while_a_write_waits(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, shared=True)
    await store.open()
    other = apsw.Connection(str(tmp_path / "catalogue.sqlite"))
    other.execute("BEGIN IMMEDIATE")
    creating = asyncio.ensure_future(store.create(header(), None, ()))

    for _ in range(20):
        await asyncio.sleep(0.005)
    waited = not creating.done()
    other.execute("COMMIT")
    await creating

    assert waited
    assert await store.load("alice", "a") is not None
    other.close()
    await store.close()


async def test_every_call_runs_in_a_thread_of_the_store(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    use = Catalogue.use

    def noted(catalogue: Catalogue) -> object:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return use(catalogue)

    monkeypatch.setattr(Catalogue, "use", noted)
    session = await started(sqlite)
    await sqlite.load("alice", "a")
    await sqlite.list("alice", "", 10)
    await sqlite.idle_since(0.0, 10)
    await sqlite.head(session.key)
    await replayed(sqlite, session.key)
    await sqlite.check()
    await sqlite.delete(session, 0)

    assert threads == {"gradstep-store"}


async def test_a_cancelled_append_ends_only_when_its_body_was_read(
    sqlite: SqliteStore,
) -> None:
    session = await started(sqlite)
    buffer = bytearray(8 * MIB)
    body = [memoryview(buffer)]
    appending = asyncio.ensure_future(append(sqlite, session.key, entry(1, body), body))
    await asyncio.sleep(0.001)

    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    buffer[:] = b"\xff" * len(buffer)

    assert await replayed(sqlite, session.key) == [(entry(1, body), bytes(8 * MIB))]


async def test_of_many_stores_on_one_directory_exactly_one_wins_each_entry(
    tmp_path: Path,
) -> None:
    stores = [SqliteStore(tmp_path, shared=True) for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    session = await started(stores[0])
    for seq in range(1, 16):
        size = 2 * MIB if seq % 5 == 0 else 500
        bodies = [random_body(100 * seq + racer, size) for racer in range(16)]
        outcomes = await asyncio.gather(
            *(
                append(stores[racer % 4], session.key, entry(seq, body), body)
                for racer, body in enumerate(bodies)
            ),
            return_exceptions=True,
        )

        [winner] = [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome is True]
        assert len([o for o in outcomes if isinstance(o, SequenceTaken) and o.head == seq]) == 15
        for store in stores:
            assert await replayed(store, session.key, after=seq - 1) == [
                (entry(seq, winner), b"".join(winner))
            ]

    db = apsw.Connection(str(session_file(stores[0], session)))
    assert db.execute("SELECT count(*) FROM pending").get == 0
    assert db.execute("SELECT count(*) FROM chunks").get == 12 + 3 * 2
    db.close()
    for store in stores:
        await store.close()


async def test_a_session_deleted_by_one_store_is_gone_for_another(tmp_path: Path) -> None:
    first, second = (SqliteStore(tmp_path, shared=True) for _ in range(2))
    await first.open()
    await second.open()
    session = await started(first, steps=2)
    assert await replayed(second, session.key) == expected_log(1, 2)

    await first.delete(session, 2)

    loaded = await second.load("alice", "a")
    assert loaded is not None
    assert loaded.deleted_at is not None
    assert await replayed(second, session.key) == []
    with pytest.raises(SequenceTaken):
        await append(second, session.key, entry(3, step_body(3)), step_body(3))
    assert not session_file(first, session).exists()
    await first.close()
    await second.close()
