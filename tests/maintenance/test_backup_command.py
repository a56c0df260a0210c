"""Stores in directories, backed up while they are in use, and restored."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from command_line import (
    WHOLE,
    WHOLE_AT_7,
    command,
    complaint,
    damage,
    generation,
    lines,
    on,
    state,
    walk,
)

from gradstep_server.sessions.service import Sessions


def test_a_store_is_backed_up_while_it_is_in_use_and_restored(kept: str, tmp_path: Path) -> None:
    copy, back = tmp_path / "copy", f"sqlite:///{tmp_path / 'back'}"

    async def meanwhile(sessions: Sessions) -> None:
        await walk(sessions, "a", 7, 7)
        result = await asyncio.to_thread(command, "backup", str(copy), "--store", kept)
        [line] = lines(result)
        assert line.startswith(f"{copy}: 3 sessions, ")
        await walk(sessions, "a", 8, 8)

    on(kept, meanwhile)
    whole = [f"a: {WHOLE_AT_7}", f"b: {WHOLE}", f"c: {WHOLE}"]
    assert lines(command("verify", "--store", f"sqlite:///{copy}")) == whole
    restored, *verified = lines(command("restore", str(copy), "--store", back))
    assert restored.startswith(f"{tmp_path / 'back'}: 3 sessions, ")
    assert verified == whole
    assert state(back, "a") == state(kept, "a", 7)
    assert generation(back, "a") == generation(kept, "a") + 1


def test_a_directory_that_holds_something_is_not_written_over(kept: str, tmp_path: Path) -> None:
    lines(command("backup", str(tmp_path / "copy"), "--store", kept))
    said = complaint(command("backup", str(tmp_path / "copy"), "--store", kept))
    assert said == f"{tmp_path / 'copy'} is not empty; choose another directory."
    said = complaint(command("restore", str(tmp_path / "copy"), "--store", kept))
    assert said == f"{tmp_path / 'data'} is not empty; choose another directory."
    assert len(lines(command("verify", "--store", kept))) == 3


def test_a_damaged_store_is_not_backed_up(kept: str, directory: Path, tmp_path: Path) -> None:
    for path in (directory / "sessions").rglob("*.sqlite"):
        path.write_bytes(path.read_bytes()[:-4096])
    said = complaint(command("backup", str(tmp_path / "copy"), "--store", kept))
    assert re.match(r"The session '[abc]' is damaged on disk: ", said)
    assert not (tmp_path / "copy").exists()


def test_a_restored_store_that_is_damaged_is_said_to_be(
    kept: str, directory: Path, tmp_path: Path
) -> None:
    damage(directory)
    lines(command("backup", str(tmp_path / "copy"), "--store", kept))
    back = f"sqlite:///{tmp_path / 'back'}"
    result = command("restore", str(tmp_path / "copy"), "--store", back)
    assert complaint(result).startswith("damaged: 3 of 3 sessions;")


@pytest.mark.parametrize("args", [("backup", "copy"), ("restore", "copy")])
def test_postgres_is_copied_by_its_own_means(args: tuple[str, ...]) -> None:
    said = complaint(command(*args, "--store", "postgresql://nowhere/x"), 2)
    assert "pg_dump" in said
