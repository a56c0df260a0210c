"""Whether the service may do without keys, and the first of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradstep_server import admission
from gradstep_server.ending import CannotRun
from gradstep_server.keys import KeyFile, changes, token
from gradstep_server.settings import Settings

ANYWHERE = "0.0.0.0"  # noqa: S104 - what must not be open


def settings(tmp_path: Path, **more: Any) -> Settings:
    return Settings(**{"store": f"sqlite:///{tmp_path}/data", **more})


def made(tmp_path: Path, name: str = "data/keys.jsonl") -> str:
    return changes.create(KeyFile(tmp_path / name), "a", "read", "default")


@pytest.mark.parametrize(
    "local", [{"host": "127.0.0.1"}, {"host": "127.3.2.1"}, {"host": "::1"}, {"host": "localhost"}]
)
def test_without_keys_this_machine_is_let_in(tmp_path: Path, local: dict[str, Any]) -> None:
    chosen = settings(tmp_path, **local)
    admission.require_keys(chosen)
    assert not admission.keyring(chosen).needed
    assert "open to everyone who reaches it from this machine" in admission.prepare(chosen)


def test_a_unix_socket_is_of_this_machine(tmp_path: Path) -> None:
    chosen = settings(tmp_path, host=ANYWHERE, uds=tmp_path / "socket")
    admission.require_keys(chosen)
    assert not admission.keyring(chosen).needed


@pytest.mark.parametrize("host", [ANYWHERE, "::", "192.0.2.1", "gradstep.example", "127.0.0.1.nip"])
def test_without_keys_no_other_address_is_served(tmp_path: Path, host: str) -> None:
    chosen = settings(tmp_path, host=host)
    with pytest.raises(CannotRun, match="keys create NAME") as caught:
        admission.require_keys(chosen)
    assert caught.value.exit_code == 2
    assert "--allow-anonymous" in str(caught.value)
    assert admission.keyring(chosen).needed


def test_unless_somebody_says_so(tmp_path: Path) -> None:
    chosen = settings(tmp_path, host=ANYWHERE, allow_anonymous=True)
    admission.require_keys(chosen)
    assert not admission.keyring(chosen).needed
    assert "from any machine" in admission.prepare(chosen)


def test_keys_are_needed_where_there_are_some_whatever_is_allowed(tmp_path: Path) -> None:
    made(tmp_path)
    for more in ({}, {"allow_anonymous": True}, {"uds": tmp_path / "socket"}):
        chosen = settings(tmp_path, **more)
        admission.require_keys(chosen)
        assert admission.keyring(chosen).needed
        assert admission.prepare(chosen) == f"1 in {tmp_path}/data/keys.jsonl"


def test_with_keys_any_address_is_served(tmp_path: Path) -> None:
    made(tmp_path)
    admission.require_keys(settings(tmp_path, host=ANYWHERE))


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    chosen = settings(tmp_path, keys_file=tmp_path / "mounted")
    with pytest.raises(CannotRun, match=r"there is no file .*mounted"):
        admission.require_keys(chosen)
    assert admission.keyring(chosen).needed
    made(tmp_path, "mounted")
    admission.require_keys(chosen)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("{broken")
    with pytest.raises(CannotRun, match="keys, line 1"):
        admission.require_keys(settings(tmp_path, keys_file=tmp_path / "keys"))


@pytest.mark.parametrize("store", ["memory://", "postgresql://me@db.example/gradstep"])
def test_a_store_without_a_directory_has_no_file_unless_it_is_named(
    tmp_path: Path, store: str
) -> None:
    assert admission.key_file(settings(tmp_path, store=store)) is None
    named = admission.key_file(settings(tmp_path, store=store, keys_file=tmp_path / "keys"))
    assert named is not None
    assert named.path == tmp_path / "keys"


def first(tmp_path: Path, **more: Any) -> Settings:
    more = {"keys_file": tmp_path / "keys.jsonl", "first_key_file": tmp_path / "admin-key", **more}
    return settings(tmp_path, host=ANYWHERE, **more)


def test_the_first_key_is_made_once_and_said_by_its_place(tmp_path: Path) -> None:
    chosen = first(tmp_path)
    admission.require_keys(chosen)
    said = admission.prepare(chosen)
    sent = (tmp_path / "admin-key").read_text().strip()
    assert said == f"one of role admin was made and is in {tmp_path}/admin-key"
    assert sent not in said
    assert token.is_whole(sent)
    key = admission.keyring(chosen).find(sent)
    assert key is not None
    assert (key.role, key.tenant) == ("admin", "default")
    assert admission.prepare(chosen) == f"1 in {tmp_path}/keys.jsonl"
    assert (tmp_path / "admin-key").read_text().strip() == sent


def test_no_first_key_is_made_in_place_of_those_that_were_revoked(tmp_path: Path) -> None:
    made(tmp_path, "keys.jsonl")
    changes.revoke(KeyFile(tmp_path / "keys.jsonl"), "a")
    chosen = first(tmp_path)
    admission.require_keys(chosen)
    assert admission.prepare(chosen) == f"0 in {tmp_path}/keys.jsonl"
    assert not (tmp_path / "admin-key").exists()


def test_a_first_key_without_a_file_of_keys_is_made_by_the_next_start(tmp_path: Path) -> None:
    """As after a crash between the two."""
    (tmp_path / "admin-key").write_text("of a start that was cut off")
    chosen = first(tmp_path)
    admission.prepare(chosen)
    assert admission.keyring(chosen).find((tmp_path / "admin-key").read_text().strip())


def test_where_anyone_may_come_no_first_key_is_made(tmp_path: Path) -> None:
    chosen = first(tmp_path, allow_anonymous=True)
    admission.require_keys(chosen)
    assert "none needed" in admission.prepare(chosen)
    assert not (tmp_path / "admin-key").exists()


def test_a_first_key_needs_a_place_for_its_hash(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="--first-key-file needs --keys-file"):
        admission.require_keys(first(tmp_path, store="memory://", keys_file=None))


def test_a_first_key_that_cannot_be_written_is_an_end(tmp_path: Path) -> None:
    chosen = first(tmp_path, first_key_file=tmp_path / "none" / "admin-key")
    with pytest.raises(CannotRun, match=r"cannot write .*admin-key"):
        admission.prepare(chosen)
    assert not (tmp_path / "keys.jsonl").exists()
