"""The file of keys, and what an operator does with it."""

from __future__ import annotations

import json
import stat
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from gradstep_server.keys import Key, KeyFile, KeysError, changes, token
from gradstep_server.keys.key import now


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "data" / "keys.jsonl")


def sent_for(file: KeyFile, name: str = "a") -> str:
    return changes.create(file, name, "write", "default")


def hashes(file: KeyFile) -> list[str]:
    return [key.sha256 for key in file.read()]


def test_nothing_in_the_file_can_be_sent(file: KeyFile) -> None:
    sent = sent_for(file)
    text = file.path.read_text()
    assert sent[3:] not in text
    assert sent[3:15] not in text
    assert json.loads(text) == {
        "name": "a",
        "role": "write",
        "tenant": "default",
        "sha256": token.digest(sent),
        "created_at": json.loads(text)["created_at"],
    }


def test_the_file_is_its_owners_alone(file: KeyFile) -> None:
    sent_for(file)
    sent_for(file, "b")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["keys.jsonl"]


def test_a_file_that_its_owner_lets_others_read_stays_so(file: KeyFile) -> None:
    """As it must for a container that runs as another user."""
    sent_for(file)
    file.path.chmod(0o644)
    sent_for(file, "b")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_a_name_is_given_once(file: KeyFile) -> None:
    sent_for(file)
    with pytest.raises(KeysError, match="there is a key 'a'; rotate or revoke it"):
        sent_for(file)
    assert len(file.read()) == 1


def test_a_revoked_key_is_gone_and_its_name_free(file: KeyFile) -> None:
    first, other = sent_for(file), sent_for(file, "b")
    changes.revoke(file, "a")
    assert hashes(file) == [token.digest(other)]
    assert sent_for(file) != first


def test_the_file_stays_when_the_last_key_goes(file: KeyFile) -> None:
    sent_for(file)
    changes.revoke(file, "a")
    assert file.read() == ()


@pytest.mark.parametrize("change", ["revoke", "rotate"])
def test_a_name_that_there_is_not_is_refused(file: KeyFile, change: str) -> None:
    sent_for(file, "b")
    with pytest.raises(KeysError, match="there is no key 'a'"):
        changes.revoke(file, "a") if change == "revoke" else changes.rotate(file, "a", 0)
    assert len(file.read()) == 1


def test_a_rotated_key_keeps_its_name_role_and_tenant(file: KeyFile) -> None:
    changes.create(file, "a", "read", "lab")
    sent = changes.rotate(file, "a", 0)
    [key] = file.read()
    assert (key.name, key.role, key.tenant) == ("a", "read", "lab")
    assert key.sha256 == token.digest(sent)


def test_with_an_overlap_the_old_key_ends_later(file: KeyFile) -> None:
    old = sent_for(file)
    new = changes.rotate(file, "a", 60)
    first, second = file.read()
    assert (first.sha256, second.sha256) == (token.digest(old), token.digest(new))
    assert first.expires_at is not None
    assert timedelta(0) < first.expires_at - now() <= timedelta(seconds=60)
    assert second.expires_at is None


def test_a_second_rotation_gives_the_first_key_no_more_time(file: KeyFile) -> None:
    sent_for(file)
    changes.rotate(file, "a", 60)
    before = file.read()[0].expires_at
    changes.rotate(file, "a", 3600)
    assert file.read()[0].expires_at == before


def test_to_revoke_ends_what_a_rotation_left_too(file: KeyFile) -> None:
    sent_for(file)
    changes.rotate(file, "a", 60)
    changes.revoke(file, "a")
    assert file.read() == ()


def test_what_has_expired_is_forgotten_by_the_next_key(file: KeyFile) -> None:
    sent_for(file)
    with file.changing() as keys:
        keys[:] = [keys[0].model_copy(update={"expires_at": now()})]
    sent = sent_for(file)
    assert hashes(file) == [token.digest(sent)]


def test_two_who_change_the_file_at_once_wait_for_each_other(file: KeyFile) -> None:
    names = [f"k{n}" for n in range(12)]
    threads = [threading.Thread(target=sent_for, args=(file, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in file.read()) == sorted(names)


def test_a_change_that_fails_leaves_the_file_as_it_was(file: KeyFile) -> None:
    sent_for(file)
    before = file.path.read_bytes()
    with suppress(RuntimeError), file.changing() as keys:
        keys.clear()
        raise RuntimeError
    assert file.path.read_bytes() == before


LINE = Key(name="a", role="read", sha256=64 * "0", created_at=now()).model_dump_json(
    exclude_none=True
)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("no json", "line 2: Invalid JSON"),
        (LINE.replace('"read"', '"root"'), "line 2, role: "),
        (LINE.replace('"a"', '"a b"'), "line 2, name: "),
        (LINE.replace("0000", "zzzz"), "line 2, sha256: "),
        (LINE.replace("}", ',"more":1}'), "line 2, more: "),
    ],
)
def test_a_line_that_is_no_key_is_named(file: KeyFile, line: str, where: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(f"{LINE}\n{line}\n")
    with pytest.raises(KeysError) as caught:
        file.read()
    assert str(caught.value).startswith(f"{file.path}, {where}")


def test_empty_lines_mean_nothing(file: KeyFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text(f"\n{LINE}\n\n")
    assert [key.name for key in file.read()] == ["a"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    file = KeyFile(tmp_path / "taken" / "keys.jsonl")
    with pytest.raises(KeysError, match=r"cannot write .*keys\.jsonl: "):
        sent_for(file)


def test_the_first_key_is_written_once(file: KeyFile, tmp_path: Path) -> None:
    path = tmp_path / "admin-key"
    assert changes.create_first(file, path)
    sent = path.read_text().strip()
    [key] = file.read()
    assert (key.sha256, key.role, key.tenant) == (token.digest(sent), "admin", "default")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not changes.create_first(file, path)
    assert path.read_text().strip() == sent
