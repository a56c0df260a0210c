"""The tables of a file: how they are made, and led from each version to the next."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import apsw

from gradstep_server.sessions.errors import StoreUnavailable
from gradstep_server.stores.sqlite.disk import fsync, unlink
from gradstep_server.stores.sqlite.failures import Damaged, translated
from gradstep_server.stores.sqlite.transaction import transaction


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
        unlink(draft)


def check(db: apsw.Connection, schema: Schema, name: str) -> None:
    """Refuse a file of another kind or of a newer gradstep.

    Raises:
        StoreUnavailable: a newer gradstep has written it.
    """
    if db.pragma("application_id") != schema.application_id:
        raise schema.damaged(f"{name} is not a gradstep {schema.noun}.")
    version = db.pragma("user_version")
    if version > schema.version:
        raise StoreUnavailable(
            f"The {schema.noun} {name} has format {version}, and this version of gradstep knows "
            f"{schema.version}; run a newer gradstep."
        )
    if version < 1:
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
