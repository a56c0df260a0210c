"""The keys that are in force: those of the file, looked at again whenever it has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import Path

from gradstep_server.keys import token
from gradstep_server.keys.file import KeyFile, KeysError
from gradstep_server.keys.key import Key

_log = logging.getLogger(__name__)

_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed: as long a revoked key may live."""

_Version = tuple[int, ...]


class Keyring:
    """Finds the key that was sent. It blocks while it looks at the file, which is small.

    Where there is no file, `open` says whether that means that no key is needed. A file without
    keys means that nobody is let in.
    """

    def __init__(self, path: Path | None, *, open: bool) -> None:  # noqa: A002 - what an open door is
        self._file = None if path is None else KeyFile(path)
        self._open = open
        self._keys: Mapping[str, Key] | None = {}
        self._version: _Version | None = None
        self._next_look = 0.0

    @property
    def needed(self) -> bool:
        """Whether a request needs a key."""
        return not self._open or self._current() is not None

    def find(self, sent: str) -> Key | None:
        """Return the key in force whose secret was sent."""
        digest = token.digest(sent)
        # What is looked up is a part of a hash; only who has the key can make all of it equal.
        key = (self._current() or {}).get(digest[:12])
        if key is None or not compare_digest(key.sha256, digest):
            return None
        return None if key.has_expired() else key

    def _current(self) -> Mapping[str, Key] | None:
        """Return the keys by their ids, or None if there is no file."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _INTERVAL
            self._look()
        return self._keys

    def _look(self) -> None:
        """Read the file if it has changed; one that cannot be read leaves things as they are.

        But where there is a file, a key is needed, whether it can be read or not.
        """
        if self._file is None:
            self._keys = None
            return
        try:
            version = _version(self._file.path)
            if version == self._version:
                return
            self._version = version
            self._keys = {key.id: key for key in self._file.read()}
        except FileNotFoundError:
            self._keys = self._version = None
        except (KeysError, OSError) as error:
            self._keys = self._keys or {}
            _log.error("%s; the keys in force are those of before", error)


def _version(path: Path) -> _Version:
    found = path.stat()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
