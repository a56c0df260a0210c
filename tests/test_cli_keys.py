"""``gradstep-server keys``, and a service whose keys come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from command_line import command, complaint
from key_files import bearer
from server_process import PATIENCE, server

from gradstep_server.keys import token


def keys(tmp_path: Path, *args: str) -> str:
    """Run a command for the keys of a store; return what it prints."""
    result = command("keys", *args, "--store", f"sqlite:///{tmp_path}/data")
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_a_key_is_printed_alone_and_once(tmp_path: Path) -> None:
    result = command("keys", "create", "ci", "--store", f"sqlite:///{tmp_path}/data")
    assert token.is_whole(result.stdout.strip())
    assert f"{tmp_path}/data/keys.jsonl" in result.stderr
    assert result.stdout.strip() not in result.stderr + keys(tmp_path, "list")


def test_keys_are_listed_without_what_is_sent(tmp_path: Path) -> None:
    assert keys(tmp_path, "list") == ""
    keys(tmp_path, "create", "b", "--role", "read", "--tenant", "lab")
    keys(tmp_path, "create", "a", "--role", "admin")
    keys(tmp_path, "rotate", "a", "--overlap", "60")
    rows = [line.split("\t") for line in keys(tmp_path, "list").splitlines()]
    assert [row[:3] for row in rows] == [
        ["a", "admin", "default"],
        ["a", "admin", "default"],
        ["b", "read", "lab"],
    ]
    assert sorted(row[5] == "-" for row in rows[:2]) == [False, True]


def test_a_revoked_key_is_not_listed(tmp_path: Path) -> None:
    keys(tmp_path, "create", "a")
    assert keys(tmp_path, "revoke", "a") == ""
    assert keys(tmp_path, "list") == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("revoke", "a"), "there is no key 'a'"),
        (("rotate", "a"), "there is no key 'a'"),
        (("create", "b"), "there is a key 'b'"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(
    tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    keys(tmp_path, "create", "b")
    assert says in complaint(command("keys", *args, "--store", f"sqlite:///{tmp_path}/data"))


@pytest.mark.parametrize(
    "args", [("create", "a b"), ("create", "a", "--tenant", "x/y"), ("create", "a", "--role", "x")]
)
def test_a_wrong_name_tenant_or_role_is_refused(tmp_path: Path, args: tuple[str, ...]) -> None:
    result = command("keys", *args, "--store", f"sqlite:///{tmp_path}/data")
    assert result.exit_code == 2
    assert not (tmp_path / "data").exists()


def test_a_store_without_a_directory_needs_a_named_file(tmp_path: Path) -> None:
    refused = command("keys", "create", "a", "--store", "memory://")
    assert "--keys-file" in complaint(refused, code=2)
    named = ("--keys-file", str(tmp_path / "keys"))
    assert command("keys", "create", "a", "--store", "memory://", *named).exit_code == 0
    assert (tmp_path / "keys").is_file()


def test_a_service_beyond_this_machine_does_not_start_without_keys(tmp_path: Path) -> None:
    flags = ("--host", "0.0.0.0", "--port", "0", "--store", f"sqlite:///{tmp_path}/data")  # noqa: S104 - refused
    assert "keys create NAME" in complaint(command(*flags), code=2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_keys_come_and_go_without_a_restart(tmp_path: Path, workers: str) -> None:
    with server(tmp_path / "data", "--workers", workers) as running:
        url = f"{running.url}/v1/sessions"
        assert httpx.get(url).status_code == 200
        sent = keys(tmp_path, "create", "a", "--role", "read")
        becomes(lambda: httpx.get(url).status_code == 401)
        becomes(lambda: httpx.get(url, headers=bearer(sent)).status_code == 200)
        rotated = keys(tmp_path, "rotate", "a")
        becomes(lambda: httpx.get(url, headers=bearer(sent)).status_code == 401)
        becomes(lambda: httpx.get(url, headers=bearer(rotated)).status_code == 200)
        keys(tmp_path, "revoke", "a")
        becomes(lambda: httpx.get(url, headers=bearer(rotated)).status_code == 401)
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        said = running.log.read_text()
        assert sent[3:] not in said
        assert rotated[3:] not in said


def becomes(true: Callable[[], bool]) -> None:
    """Wait until something holds ten times in a row, whichever worker is asked."""
    until = time.monotonic() + PATIENCE
    while not all(true() for _ in range(10)):
        assert time.monotonic() < until
        time.sleep(0.1)
