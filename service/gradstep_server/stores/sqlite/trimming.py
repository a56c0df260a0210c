"""Dropping what a log no longer needs, a little in each transaction."""

from __future__ import annotations

import apsw

from gradstep_server.sessions.store import Basis
from gradstep_server.stores.sqlite import bodies, snapshots, tables
from gradstep_server.stores.sqlite.transaction import transaction

_ENTRIES = 256
_BYTES = 64 * 2**20
"""What one transaction drops at most; an entry that is longer goes by itself."""


def trim(db: apsw.Connection, oldest: int, rewound: int | None) -> bool:
    """Drop some of what is older than the snapshot `oldest`, if that is kept.

    All is read within the transaction: what another process has dropped since
    may be another body's place by now.

    Returns:
        Whether there may be more to drop.
    """
    with transaction(db, durable=False):
        bases = {seq: base for seq, base in snapshots.kept(db) if seq >= oldest}
        if oldest not in bases or rewound not in {None, _rewound(db)}:
            return False
        return _drop_snapshot(db, oldest) or _drop_bodies(db, min(bases.values()))


def keeps(db: apsw.Connection, basis: Basis) -> bool:
    """Return whether nothing was dropped of what a rewind relies on."""
    kept = basis.snapshot is None or snapshots.base_of(db, basis.snapshot) is not None
    return kept and tables.trimmed(db) <= basis.after


def _rewound(db: apsw.Connection) -> int:
    query = "SELECT max(seq) FROM entries WHERE kind <> 'step' AND kind = 'rewind'"
    return db.execute(query).get or 0


def _drop_snapshot(db: apsw.Connection, oldest: int) -> bool:
    """Drop one snapshot from before `oldest`; return whether there was one."""
    query = "SELECT seq, body FROM snapshots WHERE seq < ? LIMIT 1"
    row = db.execute(query, (oldest,)).fetchone()
    if row is None:
        return False
    seq, body = row
    bodies.delete(db, body)
    db.execute("DELETE FROM snapshots WHERE seq = ?", (seq,))
    return True


def _drop_bodies(db: apsw.Connection, upto: int) -> bool:
    """Drop the next few bodies of entries up to `upto`; return whether there were any."""
    done = 0
    dropped = 0
    for row in db.execute(tables.BETWEEN, (tables.trimmed(db), upto, _ENTRIES)).fetchall():
        entry, base = tables.located(row)
        bodies.delete(db, base)
        done, dropped = entry.seq, dropped + entry.body_size
        if dropped >= _BYTES:
            break
    if done:
        db.execute("UPDATE log SET trimmed = ?", (done,))
    return bool(done)
