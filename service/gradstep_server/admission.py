"""Which keys the settings mean, whether the service may do without, and the first of them."""

from __future__ import annotations

from gradstep_server.ending import CannotRun
from gradstep_server.keys import Key, KeyFile, Keyring, KeysError
from gradstep_server.keys.changes import create_first
from gradstep_server.settings import Settings
from gradstep_server.stores.urls import directory_of

_FILE = "keys.jsonl"


def keyring(settings: Settings) -> Keyring:
    """Return the keys in force."""
    file = key_file(settings)
    return Keyring(None if file is None else file.path, open=_may_be_open(settings))


def key_file(settings: Settings) -> KeyFile | None:
    """Return the file of keys, whether or not there is one yet; None if it has no place."""
    if settings.keys_file is not None:
        return KeyFile(settings.keys_file)
    directory = directory_of(settings.store)
    return None if directory is None else KeyFile(directory / _FILE)


def require_keys(settings: Settings) -> None:
    """Refuse to let in everyone, if nobody said so.

    Raises:
        CannotRun: there must be keys and there are none, or they cannot be read.
    """
    if _read(settings) is not None or _may_be_open(settings):
        return
    file = key_file(settings)
    if settings.first_key_file is None:
        where = "without keys, everyone who reaches it could use it"
        if settings.keys_file is not None:
            where = f"there is no file {settings.keys_file}"
        raise CannotRun(
            f"{where}; make a key with `gradstep-server keys create NAME`, or say "
            "--allow-anonymous",
            exit_code=2,
        )
    if file is None:
        raise CannotRun("--first-key-file needs --keys-file with this store", exit_code=2)


def prepare(settings: Settings) -> str:
    """Make the first key if there is to be one, and say in a few words which there are.

    Raises:
        CannotRun: it cannot be made.
    """
    file, first = key_file(settings), settings.first_key_file
    keys = _read(settings)
    if keys is None and file is not None and first is not None and not settings.allow_anonymous:
        try:
            made = create_first(file, first)
        except KeysError as error:
            raise CannotRun(str(error)) from error
        if made:
            return f"one of role admin was made and is in {first}"
        keys = _read(settings)
    if file is None or keys is None:
        who = "this machine" if settings.is_local else "any machine"
        return f"none needed: open to everyone who reaches it from {who}"
    return f"{len(keys)} in {file.path}"


def _may_be_open(settings: Settings) -> bool:
    """Say whether no key is needed where there is no file; one that was named must be there."""
    return settings.allow_anonymous or (settings.is_local and settings.keys_file is None)


def _read(settings: Settings) -> tuple[Key, ...] | None:
    file = key_file(settings)
    try:
        return None if file is None else file.read()
    except FileNotFoundError:
        return None
    except KeysError as error:
        raise CannotRun(str(error)) from error
