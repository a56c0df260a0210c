"""The tables of a file: how they are made, and led from each version to the next."""

from __future__ import annotations

import os
import secrets
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import apsw

from gradstep_server.sessions.errors import StoreUnavailable, Unavailable
from gradstep_server.stores.sqlite.disk import fsync, unlink
from gradstep_server.stores.sqlite.failures import Damaged, Failure, translated
from gradstep_server.stores.sqlite.transaction import transaction

_HIGHEST = 1000
"""No format will have a higher number: one that has is damaged."""


SMALL_PAGE, LARGE_PAGE = 4 * 1024, 64 * 1024
"""Bytes. Files with large pages hold bodies of megabytes, which are written once and read once."""


@dataclass(frozen=True)
class Schema:
    """What kind of file it is."""

    noun: str
    """What a message calls it."""

    application_id: int

    steps: tuple[str, ...]
    """The SQL of step n leads from version n to version n + 1; an empty file has version 0."""

    damaged: Damaged
    """What to raise when it is not what it was."""

    @property
    def version(self) -> int:
        """The version that this gradstep writes."""
        return len(self.steps)

    def translated(self, error: Failure, db: apsw.Connection | None) -> Unavailable:
        """Return what to raise instead of an error that was met in such a file.

        SQLite takes tables of which a letter is not what it was for other tables,
        and the questions that are asked of them for wrong.

        Args:
            error: what was raised.
            db: the connection that it was raised by, if any.
        """
        if isinstance(error, apsw.SQLError) and db is not None and not self._is_intact(db):
            return self.damaged(f"The {self.noun} is damaged on disk: {error}.")
        return translated(error, db, self.noun, self.damaged)

    def _is_intact(self, db: apsw.Connection) -> bool:
        """Return whether a file has the tables of its version."""
        try:
            return _tables_of(db) == _tables(self.steps[: db.pragma("user_version")])
        except (apsw.Error, UnicodeDecodeError):
            return False


class NewerFormat(StoreUnavailable):
    """Raised when a newer gradstep has written a file, or damage makes it look so."""


def build(path: Path, schema: Schema, page_size: int) -> None:
    """Create the file with its tables, durably, unless it exists.

    It is built under another name and linked, so that no process ever sees half
    of it, and of two that build it at once both use the first one's. Where it
    exists nothing is written: there may be no space.
    """
    draft = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.new")
    db: apsw.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            db = apsw.Connection(os.fspath(draft))
            _fill(db, schema, page_size)
            db.close()
            fsync(draft)
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        fsync(path.parent)
        fsync(path.parent.parent)
    except (apsw.Error, OSError) as error:
        raise translated(error, db, schema.noun, schema.damaged) from error
    finally:
        if db is not None:
            db.close(force=True)
        with suppress(OSError):  # the next start sweeps what stays
            unlink(draft)


def check(db: apsw.Connection, schema: Schema, name: str) -> None:
    """Refuse a file of another kind or of a newer gradstep.

    Raises:
        NewerFormat: a newer gradstep has written it.
    """
    if db.pragma("application_id") != schema.application_id:
        raise schema.damaged(f"{name} is not a gradstep {schema.noun}.")
    version = db.pragma("user_version")
    if schema.version < version <= _HIGHEST:
        raise NewerFormat(
            f"The {schema.noun} {name} has format {version}, and this version of gradstep knows "
            f"{schema.version}; run a newer gradstep."
        )
    if not 1 <= version <= schema.version:
        raise schema.damaged(f"The {schema.noun} {name} has no valid format number.")


def migrate(db: apsw.Connection, schema: Schema) -> None:
    """Lead a checked file to this version, whoever else tries at the same time."""
    if db.pragma("user_version") >= schema.version:
        return
    with transaction(db):
        version = db.pragma("user_version")  # another process may have come first
        for step in schema.steps[version:]:
            db.execute(step)
        db.pragma("user_version", max(version, schema.version))


def _fill(db: apsw.Connection, schema: Schema, page_size: int) -> None:
    """Make the tables of an empty file, which is synced when it is complete."""
    db.pragma("synchronous", "off")
    db.pragma("page_size", page_size)
    db.pragma("journal_mode", "memory")
    with db:
        for step in schema.steps:
            db.execute(step)
    db.pragma("application_id", schema.application_id)
    db.pragma("user_version", schema.version)
    db.pragma("journal_mode", "wal")


@cache
def _tables(steps: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
    """Return the tables that these steps make."""
    with closing(apsw.Connection(":memory:")) as db:
        for step in steps:
            db.execute(step)
        return _tables_of(db)


def _tables_of(db: apsw.Connection) -> frozenset[tuple[Any, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    return frozenset(db.execute(query))
