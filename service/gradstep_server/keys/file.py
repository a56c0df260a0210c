"""The file of keys: a line of JSON for each, replaced as a whole when one comes or goes."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from gradstep_server.keys.key import Key


class KeysError(Exception):
    """Raised when keys cannot be read, written, or changed as asked; its text says why."""


class KeyFile:
    """A file of keys. Nothing in it can be sent as a key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Key, ...]:
        """Return the keys.

        Raises:
            FileNotFoundError: there is no such file.
            KeysError: it cannot be read.
        """
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            who = f"user {os.getuid()} cannot read {self.path}"
            raise KeysError(f"{who}: {_reason(error)}") from error
        return tuple(
            self._parsed(number, line) for number, line in enumerate(lines, 1) if line.strip()
        )

    @contextmanager
    def changing(self) -> Iterator[list[Key]]:
        """Lend the keys to be changed, alone, and write them when the block has succeeded.

        Raises:
            KeysError: the file cannot be read or written; it is as it was.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise KeysError(f"cannot write {self.path}: {_reason(error)}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            try:
                keys, mode = list(self.read()), stat.S_IMODE(self.path.stat().st_mode)
            except FileNotFoundError:
                keys, mode = [], 0o600
            yield keys
            # Who lets others read the file, as another user's container, goes on doing so.
            write_secret(self.path, _text(keys), mode)
        finally:
            os.close(folder)

    def _parsed(self, number: int, line: str) -> Key:
        try:
            return Key.model_validate_json(line)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, wrong["loc"]))
            place = f"{self.path}, line {number}" + (f", {where}" if where else "")
            raise KeysError(f"{place}: {wrong['msg']}") from None


def write_secret(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file durably, by default for its owner alone, under another name until it is whole.

    Raises:
        KeysError: it cannot be written; what had its name before still has it.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.unfinished")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            os.fchmod(descriptor, mode)
            out.write(text)
            out.flush()
            os.fsync(descriptor)
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        draft.unlink(missing_ok=True)


def _text(keys: Sequence[Key]) -> str:
    return "".join(f"{key.model_dump_json(exclude_none=True)}\n" for key in keys)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
