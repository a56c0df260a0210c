"""Copies of a directory, made while a server may own and write it.

A copy is a directory like any other. Its rules:

* The catalogue is copied first, as of one moment. The sessions of the copy are
  those of that moment, without those that were deleted until they were copied.
* Each session is copied as of one later moment, while its steps go on.
* Every file of the copy has passed SQLite's own check, and is on disk, before
  the copy gets its name: what bears the name is whole.
* Where something is damaged there is no copy, and the message names it.

After a restore every log that has entries is suspect, for more may have been
acknowledged than the backup holds: its session begins a generation when it is
used next, so that nothing that was sent before is taken for something new.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from gradstep_server.sessions.errors import StorageFull, StoreUnavailable, Unavailable
from gradstep_server.stores.sqlite import catalogue, tables
from gradstep_server.stores.sqlite.catalogue import Catalogue
from gradstep_server.stores.sqlite.connecting import Link
from gradstep_server.stores.sqlite.directory import CATALOGUE, SESSIONS
from gradstep_server.stores.sqlite.disk import fsync, unlink
from gradstep_server.stores.sqlite.failures import is_disk_full
from gradstep_server.stores.sqlite.log import LogFile
from gradstep_server.stores.sqlite.logs import path_of
from gradstep_server.stores.sqlite.schema import Schema, check

Progress = Callable[[int, int], None]
"""Takes how many bytes are copied, and how many there are."""

_PAGES = 256


def backup(source: Path, target: Path, progress: Progress) -> int:
    """Copy the directory `source`, which a server may use meanwhile; return its sessions' number.

    Args:
        source: a store's directory.
        target: what to make; it does not exist or is empty.
        progress: is told how far it is.

    Raises:
        Unavailable: there is no copy, and the error says why.
    """
    with _appearing(target.resolve()) as draft:
        return len(_Copying(source, draft, progress).run())


def restore(backup: Path, target: Path, progress: Progress) -> int:
    """Make a store's directory of a backup; return how many sessions it has.

    Args:
        backup: what `backup` has made.
        target: what to make; it does not exist or is empty.
        progress: is told how far it is.

    Raises:
        Unavailable: there is no such directory, and the error says why.
    """
    with _appearing(target.resolve()) as draft:
        keys = _Copying(backup, draft, progress).run()
        for key in keys:
            path = path_of(draft / SESSIONS, key)
            if path.exists():
                log = LogFile(path, writer=0, shared=False, incarnation=None)
                log.doubt()
                log.close()
        return len(keys)


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Lend a folder that becomes `target` when the block has succeeded.

    A directory that exists may be where a volume is mounted, and keeps its
    place; without a catalogue, which comes last, it is no store.
    """
    name = f"{target.name}.{secrets.token_hex(4)}.unfinished"
    draft = target.with_name(name)
    try:
        exists = target.exists()
        if exists:
            if next(target.iterdir(), None) is not None:
                raise StoreUnavailable(f"{target} is not empty; choose another directory.")
            draft = target / name
        (draft / SESSIONS).mkdir(parents=True)
        yield draft
        for path in (*draft.rglob("*"), draft):
            fsync(path)
        if exists:
            for part in (SESSIONS, CATALOGUE):
                (draft / part).rename(target / part)
                fsync(target)
        else:
            draft.rename(target)
            fsync(target.parent)
    except OSError as error:
        if is_disk_full(error, None):
            raise StorageFull(f"There is no space for {target}.") from error
        raise StoreUnavailable(f"{target} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@dataclass(frozen=True)
class _Part:
    """Tells the progress of one file among others."""

    progress: Progress
    before: int
    size: int
    """How many bytes it had when all were counted; it may have more by now."""

    total: int

    def __call__(self, copied: int) -> None:
        self.progress(self.before + min(copied, self.size), self.total)


class _Copying:
    """One copy of a directory, on its way into a draft."""

    def __init__(self, source: Path, draft: Path, progress: Progress) -> None:
        self._source = source
        self._draft = draft
        self._progress = progress

    def run(self) -> Collection[str]:
        """Copy catalogue and logs; return the keys of the sessions that are in the copy."""
        path = self._source / CATALOGUE
        if not path.is_file():
            raise StoreUnavailable(f"{self._source} is no store: it has no {CATALOGUE}.")
        copied = Catalogue(self._draft / CATALOGUE, shared=False)
        with _opened(path, catalogue.SCHEMA) as known, closing(copied):
            _copy_file(known, copied.path, catalogue.SCHEMA, lambda _: None)
            ids = copied.live()
            sizes = {key: self._size(key) for key in sorted(copied.written_keys())}
            done, total = 0, sum(sizes.values())
            for key, size in sizes.items():
                told = _Part(self._progress, done, size, total)
                if not self._copy_log(key, ids[key], known, told):
                    copied.finish_delete(key)
                    del ids[key]
                done += size
            self._progress(total, total)
        return ids

    def _copy_log(self, key: str, session_id: str, known: apsw.Connection, told: _Part) -> bool:
        """Copy the log of one session, unless that is deleted by then."""
        path = path_of(self._draft / SESSIONS, key)
        path.parent.mkdir(exist_ok=True)
        schema = replace(tables.SCHEMA, noun=f"session {session_id!r}")
        try:
            with _opened(path_of(self._source / SESSIONS, key), schema) as log:
                _copy_file(log, path, schema, told)
                gone = bool(log.execute("SELECT closed FROM log").get)
        except Unavailable:
            if not _is_deleted(known, key):
                raise
            gone = True
        # The file of a deleted session is removed in parts: it may have been read without one.
        if gone or _is_deleted(known, key):
            unlink(path)
            return False
        return True

    def _size(self, key: str) -> int:
        """Return about how many bytes a log has."""
        path = path_of(self._source / SESSIONS, key)
        with suppress(FileNotFoundError):
            return path.stat().st_size
        return 0


@contextmanager
def _opened(path: Path, schema: Schema) -> Iterator[apsw.Connection]:
    """Open a file as a second process does, for reading."""
    link = Link(path)
    try:
        if not path.exists():
            raise schema.damaged(f"The file of the {schema.noun} is missing.")
        db = link.open()
        check(db, schema, path.name)
        yield db
    except (apsw.Error, OSError) as error:
        raise schema.translated(error, link.db) from error
    finally:
        link.close()


def _copy_file(
    db: apsw.Connection, target: Path, schema: Schema, told: Callable[[int], None]
) -> None:
    """Copy a file as of one moment, whoever writes it, and check the copy."""
    page_size = int(db.pragma("page_size"))
    with closing(apsw.Connection(os.fspath(target))) as copy:
        copy.pragma("locking_mode", "exclusive")  # no one else knows it: nothing beside it
        copy.pragma("synchronous", "off")  # synced when it is complete
        copy.pragma("journal_mode", "off")
        db.execute("BEGIN")  # a backup begins anew when it meets a write: it is to meet none
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with copy.backup("main", db, "main") as steps:
            while not steps.done:
                steps.step(_PAGES)
                told((steps.page_count - steps.remaining) * page_size)
        db.execute("COMMIT")
        copy.pragma("cell_size_check", value=True)
        found = copy.execute("PRAGMA integrity_check(1)").get
        if found != "ok":
            raise schema.damaged(f"The {schema.noun} is damaged on disk: {found}.")


def _is_deleted(known: apsw.Connection, key: str) -> bool:
    """Return whether the session of this key is deleted by now."""
    query = "SELECT deleted_at IS NOT NULL FROM sessions WHERE key = ?"
    return bool(known.execute(query, (key,)).get)
