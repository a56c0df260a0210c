"""The file by which SQLite's connections share the index of a write-ahead log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from file_limit import largest_file

from gradstep_server.stores.sqlite import connecting
from gradstep_server.stores.sqlite.connecting import Link
from gradstep_server.stores.sqlite.shared_memory import REGION, SharedMemory
from gradstep_server.stores.sqlite.tables import build_log

ADD = "INSERT INTO chunks VALUES (NULL, ?)"
COUNT = "SELECT count(*) FROM chunks"

LOCKED_BY = """
import fcntl, os, struct, sys
wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 120, 8, 0)
found = fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_GETLK, wanted)
print(struct.unpack("hhqqi4x", found)[4])
"""
"""Prints which process has a lock of SQLite's on the file, but for the dead man's switch."""

FIRST_HOLE = """
import os, sys
print(os.lseek(os.open(sys.argv[1], os.O_RDONLY), 0, os.SEEK_HOLE))
"""
CONTENT = """
import pathlib, sys
sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a session's file."""
    path = tmp_path / "folder" / "a.sqlite"
    build_log(path, 0)
    return path


@pytest.fixture
def link(path: Path) -> Iterator[Link]:
    """Return a connection to the file, not open yet."""
    with closing(Link(path)) as link:
        yield link


def index(path: Path) -> Path:
    return path.with_name("a.sqlite-shm")


def is_whole(path: Path) -> bool:
    """Return whether a file has no hole."""
    return int(asked(FIRST_HOLE, path)) == path.stat().st_size


def asked(program: str, path: Path) -> bytes:
    """Return what another process says of a file: what this one closes, it has no locks on."""
    return subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True
    ).stdout


def test_the_file_is_written_to_its_last_byte_before_sqlite_maps_it(path: Path, link: Link) -> None:
    db = link.open()

    assert index(path).stat().st_size == 2 * REGION
    assert is_whole(index(path))
    db.execute(ADD, (b"",))
    assert index(path).stat().st_size == 2 * REGION


def test_it_is_as_long_as_the_log_that_a_killed_process_has_left_needs_it(
    path: Path, link: Link
) -> None:
    db = link.open()
    db.wal_autocheckpoint(0)
    for _ in range(5):
        db.execute(ADD, (bytes(5 * 2**20),))
    link.drop()

    db = link.open()

    assert index(path).stat().st_size == 3 * REGION
    assert is_whole(index(path))
    assert db.execute(COUNT).get == 5


def test_the_last_connection_leaves_nothing_beside_the_database(path: Path, link: Link) -> None:
    with closing(Link(path)) as other:
        link.open().execute(ADD, (b"",))
        db = other.open()
        db.execute(ADD, (b"",))
        link.close()
        assert db.execute(COUNT).get == 2

    assert list(path.parent.iterdir()) == [path]


def test_a_connection_that_is_closed_takes_no_lock_from_another(path: Path, link: Link) -> None:
    """The system takes all locks of a process on a file when the process closes it once."""
    reading = link.open()
    reading.execute("BEGIN")
    assert reading.execute(COUNT).get == 0
    assert int(asked(LOCKED_BY, index(path))) == os.getpid()

    with closing(Link(path)) as other:
        other.open().execute(ADD, (b"",))

    assert int(asked(LOCKED_BY, index(path))) == os.getpid()
    assert reading.execute(COUNT).get == 0


def test_what_another_connection_needs_is_not_written_over(path: Path, link: Link) -> None:
    link.open().execute(ADD, (b"",))
    before = asked(CONTENT, index(path))
    memory = SharedMemory(path)

    memory.hold()

    assert asked(CONTENT, index(path)) == before != bytes(2 * REGION)
    memory.release()


def test_a_file_that_is_removed_just_then_is_made_anew(
    path: Path, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another process that closes its connection, and was the last."""
    hold = SharedMemory.hold
    removed: list[int] = []

    def hold_and_lose(memory: SharedMemory) -> None:
        hold(memory)
        if len(removed) < 2:
            removed.append(index(path).stat().st_ino)
            index(path).unlink()

    monkeypatch.setattr(SharedMemory, "hold", hold_and_lose)

    assert link.open().execute(COUNT).get == 0

    assert len(removed) == 2
    assert index(path).stat().st_size == 2 * REGION


def test_without_space_a_connection_is_alone_until_there_is_some(
    path: Path, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_BUSY_MS", 0)
    with closing(Link(path)) as other:
        with largest_file(0):
            assert link.open().execute(COUNT).get == 0
            assert link.alone
            assert not link.may_share()
            with pytest.raises(apsw.BusyError):
                other.open()
        other.drop()

        assert link.may_share()
        link.drop()
        assert link.open().execute(COUNT).get == 0
        assert not link.alone
        assert other.open().execute(COUNT).get == 0


def test_what_belongs_to_another_connection_stays_where_there_is_no_space(
    path: Path, link: Link
) -> None:
    db = link.open()
    with closing(Link(path)) as other, largest_file(0):
        assert other.open().execute(COUNT).get == 0
        assert not other.alone

    db.execute(ADD, (b"",))
    assert db.execute(COUNT).get == 1
