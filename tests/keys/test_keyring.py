"""The keys in force, while their file changes."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradstep_server.keys import Key, KeyFile, Keyring, changes, keyring, token
from gradstep_server.keys.key import now


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_INTERVAL", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.jsonl")


def key(file: KeyFile, name: str = "a") -> str:
    return changes.create(file, name, "write", "lab")


def test_a_key_is_found_by_what_is_sent(file: KeyFile) -> None:
    sent, _ = key(file), key(file, "b")
    found = Keyring(file.path, open=False).find(sent)
    assert found is not None
    assert (found.name, found.tenant) == ("a", "lab")


def test_no_other_is_found(file: KeyFile) -> None:
    sent = key(file)
    ring = Keyring(file.path, open=False)
    for other in (token.make(), token.digest(sent), "", sent[:-1]):
        assert ring.find(other) is None


def test_a_hash_that_only_begins_alike_is_no_match(file: KeyFile) -> None:
    sent = key(file)
    with file.changing() as keys:
        changed = keys[0].sha256[:-1] + ("0" if keys[0].sha256[-1] != "0" else "1")
        keys[:] = [keys[0].model_copy(update={"sha256": changed})]
    assert Keyring(file.path, open=False).find(sent) is None


def test_what_changes_in_the_file_is_noticed(file: KeyFile) -> None:
    first = key(file)
    ring = Keyring(file.path, open=False)
    assert ring.find(first)
    second = key(file, "b")
    assert ring.find(second)
    changes.revoke(file, "a")
    assert ring.find(first) is None
    assert ring.find(second)


def test_the_file_is_read_once_for_each_change(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, reads, read = key(file), [], KeyFile.read

    def counted(file: KeyFile) -> tuple[Key, ...]:
        reads.append(file)
        return read(file)

    monkeypatch.setattr(KeyFile, "read", counted)
    ring = Keyring(file.path, open=False)
    assert all(ring.find(sent) for _ in range(100))
    assert len(reads) == 1


def test_a_revoked_key_lives_for_a_second_at_most(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(keyring, "_INTERVAL", 1.0)
    monkeypatch.setattr(keyring, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sent = key(file)
    ring = Keyring(file.path, open=False)
    assert ring.find(sent)
    changes.revoke(file, "a")
    now[0] += 1.0
    assert ring.find(sent) is None


def test_a_key_whose_time_is_over_is_not_found(file: KeyFile) -> None:
    sent = key(file)
    with file.changing() as keys:
        keys[:] = [keys[0].ending_in(60)]
    ring = Keyring(file.path, open=False)
    assert ring.find(sent)
    with file.changing() as keys:
        keys[:] = [keys[0].model_copy(update={"expires_at": now()})]
    assert ring.find(sent) is None


def test_without_a_file_it_is_as_open_as_was_said(tmp_path: Path) -> None:
    absent = tmp_path / "none"
    assert not Keyring(absent, open=True).needed
    assert not Keyring(None, open=True).needed
    assert Keyring(absent, open=False).needed
    assert Keyring(None, open=False).needed
    assert Keyring(absent, open=False).find(token.make()) is None


def test_the_first_key_closes_it_and_the_last_one_does_not_open_it(file: KeyFile) -> None:
    ring = Keyring(file.path, open=True)
    assert not ring.needed
    sent = key(file)
    assert ring.needed
    assert ring.find(sent)
    changes.revoke(file, "a")
    assert ring.needed
    assert ring.find(sent) is None


def test_a_file_that_goes_away_takes_its_keys_along(file: KeyFile) -> None:
    sent = key(file)
    ring = Keyring(file.path, open=False)
    assert ring.find(sent)
    file.path.unlink()
    assert ring.find(sent) is None
    assert ring.needed


def test_a_file_that_cannot_be_read_leaves_the_keys_of_before_and_says_so_once(
    file: KeyFile, caplog: pytest.LogCaptureFixture
) -> None:
    sent = key(file)
    ring = Keyring(file.path, open=False)
    assert ring.find(sent)
    good = file.path.read_text()
    file.path.write_text("{broken")
    with caplog.at_level(logging.ERROR):
        assert all(ring.find(sent) for _ in range(3))
    assert len(caplog.records) == 1
    assert "line 1" in caplog.text
    assert "the keys in force are those of before" in caplog.text
    file.path.write_text(good)
    changes.revoke(file, "a")
    assert ring.find(sent) is None


def test_a_file_that_cannot_be_read_lets_nobody_in_where_there_was_none(file: KeyFile) -> None:
    ring = Keyring(file.path, open=True)
    assert not ring.needed
    file.path.write_text("{broken")
    assert ring.needed
    assert ring.find(token.make()) is None


def test_a_secret_that_is_mounted_through_links_is_noticed(tmp_path: Path, file: KeyFile) -> None:
    """As Kubernetes does it: the link is replaced, and the file behind it never written."""
    sent = key(file)
    mounted = tmp_path / "mounted"
    mounted.symlink_to(file.path)
    ring = Keyring(mounted, open=False)
    assert ring.find(sent)
    other = KeyFile(tmp_path / "other.jsonl")
    second = key(other)
    (tmp_path / "new").symlink_to(other.path)
    (tmp_path / "new").replace(mounted)
    assert ring.find(sent) is None
    assert ring.find(second)
