"""Every command of docs/maintenance.md runs as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest
from command_line import command, fill, generation, lines, state
from postgres_server import PostgresServer
from server_process import Server, server
from session_app import SGD

PAGE = (Path(__file__).parents[2] / "docs" / "maintenance.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))
SERVE = "gradstep-server --store sqlite:///restored\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: str, programs: Path = Path("nowhere")) -> list[str]:
    """Run the commands of a block, those of PostgreSQL from a folder; return what ours print."""
    printed = []
    for line in block.replace("\\\n", " ").splitlines():
        program, *args = shlex.split(line, comments=True)
        if program == "gradstep-server":
            printed += lines(command(*args))
        else:
            done = subprocess.run(
                [programs / program, *args], capture_output=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
    return printed


def test_every_block_of_commands_is_run_by_a_test() -> None:
    assert PAGE.count("```sh") == len(BLOCKS)
    source = Path(__file__).read_text()
    assert all(f'BLOCKS["{name}"]' in source for name in BLOCKS)


def test_sessions_are_verified_and_moved(folder: Path) -> None:
    url = f"sqlite:///{folder / 'gradstep-data'}"
    fill(url, "digits-0", "digits-1")
    said = run(BLOCKS["verify"])
    assert [line.partition(":")[0] for line in said] == ["digits-0", "digits-1", "digits-1"]
    assert all(": ok, step 6, " in line for line in said)
    now, then = run(BLOCKS["export"])
    assert now.startswith("digits-1.safetensors: digits-1 at step 6, ")
    assert then.startswith("digits-1-at-2.safetensors: digits-1 at step 2, ")
    [done] = run(BLOCKS["import"])
    assert done.startswith("digits-2: imported at step 6, ")
    assert state(f"sqlite:///{folder / 'elsewhere'}", "digits-2") == state(url, "digits-1")


def test_a_store_is_backed_up_in_use_and_restored(folder: Path) -> None:
    with server(folder / "gradstep-data") as running:
        take_step(running, "digits-1")
        copied, verified = run(BLOCKS["backup"])
    assert copied.startswith("backup-monday: 1 session, ")
    assert verified.startswith("digits-1: ok, step 1, ")
    restore, serve, nothing = BLOCKS["restore"].partition(SERVE)
    assert (serve, nothing) == (SERVE, "")
    assert run(restore)[1] == verified
    with server(folder / "restored") as running:
        session = httpx.get(f"{running.url}/v1/sessions/digits-1").json()
        assert (session["step"], session["generation"]) == (1, 2)


def take_step(running: Server, session_id: str) -> None:
    session = f"{running.url}/v1/sessions/{session_id}"
    body = {"optimizer": SGD, "params": {"w": [1.0, 2.0]}}
    httpx.put(session, json=body).raise_for_status()
    httpx.put(f"{session}/steps/1", json={"grads": {"w": [0.1, 0.2]}}).raise_for_status()


def test_a_database_is_dumped_and_loaded(folder: Path, postgres: PostgresServer) -> None:
    first, second = postgres.database(), postgres.database()
    fill(first, "a", "b")

    def placed(block: str) -> str:
        named = block.replace("postgresql://me@db.example/gradstep", first)
        return named.replace("postgresql://me@db.example/empty", second)

    run(placed(BLOCKS["dump"]), postgres._programs)
    said = run(placed(BLOCKS["load"]), postgres._programs)
    assert [line.partition(":")[0] for line in said] == ["a", "b"]
    assert state(second, "a") == state(first, "a")
    assert generation(second, "a") == generation(first, "a") + 1
