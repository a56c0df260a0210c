"""The tables of a session's file, and its questions about entries in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Entry, Head
from gradstep_server.stores.sqlite import bodies
from gradstep_server.stores.sqlite.schema import LARGE_PAGE, SMALL_PAGE, Schema, build

_V1 = (
    bodies.SCRIPT
    + """
CREATE TABLE log (
    closed INTEGER NOT NULL,  -- 1: deleted, takes no more entries
    trimmed INTEGER NOT NULL  -- the last entry whose body is gone
) STRICT;
INSERT INTO log VALUES (0, 0);
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    n INTEGER NOT NULL,
    step INTEGER NOT NULL,
    digest BLOB NOT NULL,
    record BLOB NOT NULL,
    seal BLOB NOT NULL,
    body_size INTEGER NOT NULL,
    created_at REAL NOT NULL,
    body INTEGER NOT NULL  -- the base of its chunks, 0 when it is empty
) STRICT;
CREATE INDEX entries_by_n ON entries (kind, n);
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY,
    record BLOB NOT NULL,
    seal BLOB NOT NULL,
    body_size INTEGER NOT NULL,
    body INTEGER NOT NULL
) STRICT;
"""
)

# Steps are nearly all entries: the last of them is found from the log's end, and
# an index of the other kinds costs a step nothing.
_V2 = """
ALTER TABLE log ADD COLUMN unsynced_in TEXT;  -- see `unsynced`
ALTER TABLE snapshots ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
UPDATE snapshots SET base = seq;
CREATE INDEX entries_but_steps ON entries (kind) WHERE kind <> 'step';
"""

SCHEMA = Schema(
    noun="session file",
    application_id=0x67735365,  # "gsSe"
    steps=(_V1, _V2),
    damaged=SessionCorrupt,
)

_LARGE_BODY = 2**20

HEAD = """
SELECT e.seq, step, created_at, seal, trimmed, unsynced_in
FROM entries e CROSS JOIN log ORDER BY e.seq DESC LIMIT 1
"""
_ENTRY = (
    "SELECT seq, kind, n, step, digest, record, seal, body_size, created_at, body FROM entries "
)
ADD = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
AT = _ENTRY + "WHERE seq = ?"
NEXT = _ENTRY + "WHERE seq > ? ORDER BY seq LIMIT 1"
BETWEEN = _ENTRY + "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
FIND = _ENTRY + "WHERE kind = ? AND n = ? ORDER BY seq DESC LIMIT 1"
# Without its sign SQLite would take the index by n, and sort all steps there are.
NEWEST_STEP = _ENTRY + "WHERE +kind = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
NEWEST_OTHER = _ENTRY + ("WHERE kind <> 'step' AND kind = ? AND seq <= ? ORDER BY seq DESC LIMIT 1")
HISTORY = f"""
{_ENTRY} WHERE seq IN (
    SELECT max(seq) FROM entries WHERE kind = ? AND n > ? AND n <= ? GROUP BY n ORDER BY n LIMIT ?
) ORDER BY n
"""  # noqa: S608 - made of constants

_TYPES = (int, str, int, int, bytes, bytes, bytes, int, float, int)
"""What the columns of `_ENTRY` hold."""

_HEAD_TYPES = (int, int, float, bytes, int)
"""What the columns of `HEAD` hold, but for the last, which holds text or nothing."""


def build_log(path: Path, first_body_size: int) -> None:
    """Create a session's file, in pages that suit the size of its tensors."""
    build(path, SCHEMA, LARGE_PAGE if first_body_size >= _LARGE_BODY else SMALL_PAGE)


def trimmed(db: apsw.Connection) -> int:
    """Return the last entry whose body is gone."""
    return int(db.execute("SELECT trimmed FROM log").get)


def head(db: apsw.Connection) -> tuple[Head, str | None] | None:
    """Return where the log stands, and its mark of `unsynced`; None when it is empty.

    Raises:
        SessionCorrupt: a column holds what was never written into it.
    """
    row: Any = db.execute(HEAD).fetchone()
    if row is None:
        return None
    *fields, mark = row
    if tuple(map(type, fields)) != _HEAD_TYPES or not isinstance(mark, str | None):
        raise SessionCorrupt(f"Entry {row[0]} is damaged.")
    return Head(*fields), mark


def first(db: apsw.Connection, query: str, *bindings: str | int) -> Entry | None:
    """Return the first entry that a question finds."""
    row = db.execute(query, bindings).fetchone()
    return None if row is None else located(row)[0]


def located(row: tuple[Any, ...]) -> tuple[Entry, int]:
    """Read a row of entries: the entry, and the base of its body.

    Raises:
        SessionCorrupt: a column holds what was never written into it.
    """
    if tuple(map(type, row)) != _TYPES:
        raise SessionCorrupt(f"Entry {row[0]} is damaged.")
    return Entry(*row[:-1]), row[-1]


def row_of(entry: Entry, base: int) -> tuple[int | float | str | bytes, ...]:
    """Return the row of an entry whose body has this base."""
    return (
        entry.seq,
        entry.kind,
        entry.n,
        entry.step,
        entry.digest,
        entry.record,
        entry.seal,
        entry.body_size,
        entry.created_at,
        base,
    )
