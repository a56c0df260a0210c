"""What the commands that look after a store have in common."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from command_line import (
    command,
    complaint,
    lines,
    on,
)

from gradstep_server.sessions.service import Sessions
from gradstep_server.settings import Settings


@pytest.mark.parametrize(
    "args",
    [("verify",), ("export", "a", "{new}"), ("import", "{file}", "z")],
)
def test_a_store_that_a_server_holds_is_left_alone(
    kept: str, tmp_path: Path, args: tuple[str, ...]
) -> None:
    file, new = str(tmp_path / "a.safetensors"), str(tmp_path / "new")
    lines(command("export", "a", file, "--store", kept))
    filled = [part.format(file=file, new=new) for part in args]

    async def meanwhile(_: Sessions) -> None:
        result = await asyncio.to_thread(command, *filled, "--store", kept)
        assert f"is in use by process {os.getpid()}; stop it" in complaint(result)

    on(kept, meanwhile)
    assert not Path(new).exists()


@pytest.mark.parametrize("args", [("verify",), ("export", "a", "f"), ("backup", "copy")])
def test_a_directory_without_a_store_is_not_made_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.chdir(directory.parent)
    said = complaint(command(*args, "--store", f"sqlite:///{directory}"))
    assert f"no store in {directory}" in said or f"{directory} is no store" in said
    assert list(directory.parent.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [("verify",), ("export", "a", "f"), ("import", "f", "a"), ("backup", "x"), ("restore", "x")],
)
def test_a_store_in_memory_is_refused(args: tuple[str, ...]) -> None:
    said = complaint(command(*args, "--store", "memory://"), 2)
    assert said.startswith(("memory:// ends with its server", "only a store in a directory"))


def test_a_database_that_is_away_is_one_sentence() -> None:
    said = complaint(command("verify", "--store", "postgresql://127.0.0.1:1/x"))
    assert "127.0.0.1" in said


@pytest.mark.parametrize("name", ["verify", "backup", "restore", "export", "import"])
def test_the_help_of_a_command_stands_alone(name: str) -> None:
    text = " ".join(command(name, "--help").stdout.split())
    assert "--store VALUE Where sessions are kept" in text
    assert "GRADSTEP_STORE" in text
    assert "in a directory" in text
    assert "--port" not in text
    [short] = [
        line.split(maxsplit=1)[1]
        for line in command("--help").stdout.splitlines()
        if line.split()[:1] == [name]
    ]
    assert not short.endswith("...")


def test_every_setting_that_a_command_takes_is_one_of_the_server() -> None:
    text = command("import", "--help").stdout
    for name in ("store", "threads", "max_tensors", "max_header_size"):
        assert name in Settings.model_fields
        assert f"--{name.replace('_', '-')} VALUE" in text
