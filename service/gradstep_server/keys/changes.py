"""What an operator does with keys: makes them, replaces them, ends them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradstep_server.keys import token
from gradstep_server.keys.file import KeyFile, KeysError, write_secret
from gradstep_server.keys.key import TENANT, Key, Role, now


def create(file: KeyFile, name: str, role: Role, tenant: str) -> str:
    """Make a key; return what its holder sends, which is kept nowhere.

    Raises:
        KeysError: there is a key of this name, or the file cannot be changed.
    """
    with file.changing() as keys:
        if _of(keys, name):
            raise KeysError(f"there is a key {name!r}; rotate or revoke it, or choose another name")
        return _add(keys, name, role, tenant)


def create_first(file: KeyFile, path: Path) -> bool:
    """Make an admin key and write what its holder sends to a file; return False if there are keys.

    Raises:
        KeysError: a file cannot be written.
    """
    with file.changing() as keys:
        if keys:
            return False
        # Written first: a key that nobody knows would keep the next start from making another.
        write_secret(path, _add(keys, "admin", "admin", TENANT) + "\n")
    return True


def rotate(file: KeyFile, name: str, overlap: float) -> str:
    """Replace a key by a new one; the old one works for so many more seconds.

    Raises:
        KeysError: there is no key of this name, or the file cannot be changed.
    """
    with file.changing() as keys:
        found = _require(keys, name)
        newest = max(found, key=lambda key: key.created_at)
        _drop(keys, found)
        if overlap > 0:
            keys.extend(key.ending_in(overlap) for key in found)
        return _add(keys, name, newest.role, newest.tenant)


def revoke(file: KeyFile, name: str) -> None:
    """End a key, and those of the same name that it has replaced.

    Raises:
        KeysError: there is no key of this name, or the file cannot be changed.
    """
    with file.changing() as keys:
        _drop(keys, _require(keys, name))


def _add(keys: list[Key], name: str, role: Role, tenant: str) -> str:
    """Add a new key, and forget those whose time is over."""
    _drop(keys, [key for key in keys if key.has_expired()])
    sent = token.make()
    made = Key(name=name, role=role, tenant=tenant, sha256=token.digest(sent), created_at=now())
    keys.append(made)
    return sent


def _of(keys: Sequence[Key], name: str) -> list[Key]:
    return [key for key in keys if key.name == name and not key.has_expired()]


def _require(keys: Sequence[Key], name: str) -> list[Key]:
    found = _of(keys, name)
    if not found:
        raise KeysError(f"there is no key {name!r}; `keys list` shows those there are")
    return found


def _drop(keys: list[Key], gone: Sequence[Key]) -> None:
    keys[:] = [key for key in keys if key not in gone]
