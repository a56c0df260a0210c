"""What `verify` says of stores that are whole, damaged, or in use."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import (
    WHOLE,
    WHOLE_AT_7,
    command,
    complaint,
    damage,
    fill,
    lines,
    on,
    walk,
)
from postgres_server import PostgresServer, execute
from server_process import COMMAND

from gradstep_server.keys import TENANT
from gradstep_server.sessions.service import Sessions

RELEASED = Path(__file__).parents[1] / "stores" / "released"


def test_verify_has_a_line_for_each_session(any_store: str) -> None:
    fill(any_store, "a", "b", "c")
    expected = [f"{name}: {WHOLE}" for name in "abc"]
    assert lines(command("verify", "--store", any_store)) == expected
    assert lines(command("--store", any_store, "verify")) == expected


def test_verify_takes_the_sessions_that_are_named(kept: str) -> None:
    assert lines(command("verify", "c", "a", "--store", kept)) == [f"c: {WHOLE}", f"a: {WHOLE}"]
    missing = command("verify", "a", "z", "--store", kept)
    assert complaint(missing) == "there is no session 'z'"
    assert missing.stdout == ""


def test_verify_says_what_is_damaged_and_goes_on(kept: str, directory: Path) -> None:
    damage(directory)
    fill(kept, "d")
    result = command("verify", "--store", kept)
    assert complaint(result) == (
        "damaged: 3 of 4 sessions; restore a backup, or delete what cannot be used"
    )
    lost = "what is kept does not lead to the present state"
    broken = "the tensors of entry 9 do not match their digest"
    expected = [f"{name}: {line}" for name in "abc" for line in (broken, lost)]
    assert result.stdout.splitlines() == [*expected, f"d: {WHOLE}"]


def test_verify_goes_on_behind_a_file_that_is_no_more_or_cannot_be_read(
    kept: str, directory: Path
) -> None:
    first, second, _ = (directory / "sessions").rglob("*.sqlite")
    first.unlink()
    second.write_bytes(b"no database" * 1000)
    result = command("verify", "--store", kept)
    assert result.exit_code == 1
    said = [line.partition(": ") for line in result.stdout.splitlines()]
    assert [name for name, _, _ in said] == ["a", "b", "c"]
    assert [line for _, _, line in said].count(WHOLE) == 1
    assert "Traceback" not in result.output


def test_verify_finds_damage_in_postgres(postgres: PostgresServer) -> None:
    address = postgres.schema()
    fill(address, "a", "b")
    shorter = "UPDATE gradstep_entries SET record = 'null' WHERE seq = 2"
    asyncio.run(execute(address, shorter))
    result = command("verify", "a", "--store", address)
    assert complaint(result).startswith("damaged: 1 of 1 session;")
    assert "a: entry 2 of the log does not match its seal" in result.stdout.splitlines()


def test_verify_runs_beside_replicas_on_postgres(postgres: PostgresServer) -> None:
    address = postgres.schema()
    fill(address, "a")

    async def meanwhile(sessions: Sessions) -> None:
        await walk(sessions, "a", 7, 7)
        result = await asyncio.to_thread(command, "verify", "--store", address)
        assert lines(result) == [f"a: {WHOLE_AT_7}"]
        await walk(sessions, "a", 8, 8)

    on(address, meanwhile)


@pytest.mark.parametrize(
    "version", [*RELEASED.glob("sqlite-v*/data")], ids=lambda at: at.parent.name
)
def test_verify_passes_what_released_versions_have_left(version: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(version, tmp_path / "data")
    said = lines(command("verify", "--store", f"sqlite:///{copy}"))
    assert len(said) >= 3
    assert all(": ok, " in line for line in said)


@pytest.mark.parametrize("dump", [*RELEASED.glob("postgres-v*.sql")], ids=lambda dump: dump.name)
def test_verify_passes_what_released_versions_have_left_in_postgres(
    dump: Path, postgres: PostgresServer
) -> None:
    said = lines(command("verify", "--store", postgres.restored(dump)))
    assert len(said) >= 3
    assert all(": ok, " in line for line in said)


def test_verify_of_a_store_without_sessions_finds_nothing_wrong(any_store: str) -> None:
    on(any_store, lambda sessions: sessions.list(TENANT, "", 1))
    assert lines(command("verify", "--store", any_store)) == []


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_a_terminal_sees_a_bar(kept: str, terminal: tuple[int, int]) -> None:
    screen, end = terminal
    environment = {**os.environ, "GRADSTEP_STORE": kept, "TERM": "xterm", "COLUMNS": "80"}
    environment.update(dict.fromkeys(("NO_COLOR", "TTY_COMPATIBLE"), ""))
    shown = subprocess.Popen([*COMMAND, "verify"], stdout=end, stderr=end, env=environment)
    os.close(end)
    seen = b""
    with suppress(OSError):  # what a terminal raises when the other end is closed
        while part := os.read(screen, 65536):
            seen += part
    assert shown.wait(60) == 0
    assert "━" in seen.decode()
    assert all(f"{name}: {WHOLE}" in seen.decode() for name in "abc")
