"""Which logs may lose their end with the medium: `unsynced_in` of the log's one row.

The medium is the kernel: what a process wrote and did not sync is in its memory,
and outlives the process. Each boot is another *incarnation*. The rules:

* ``unsynced_in`` is NULL: everything is synced. An entry that need not be synced
  is synced nevertheless, together with the name of this incarnation.
* It names this incarnation: entries that need not be synced are not.
* It names another one: that has ended, and the log's last entries may be gone
  with it. The log is suspect until a synced entry takes the name away, in its own
  transaction; entries that need not be synced are synced, and leave the name, as
  `sync` does.

A log that was restored from a backup bears a name that no incarnation has.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import apsw

_RESTORED = "restored"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_incarnation(*, shared: bool) -> str | None:
    """Return the name of the medium's incarnation, None where it cannot be known.

    A system that does not name its boots gets a name per process, unless other
    processes share the directory: each would take the others for lost.
    """
    if _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    return None if shared else uuid4().hex


def mark(db: apsw.Connection) -> str | None:
    """Return the incarnation in which the log has unsynced entries, if it has any."""
    found: str | None = db.execute("SELECT unsynced_in FROM log").get
    return found


def note(db: apsw.Connection, incarnation: str | None, *, synced: bool) -> None:
    """Within the transaction that appends an entry, note what it means for the mark."""
    if synced:
        db.execute("UPDATE log SET unsynced_in = NULL WHERE unsynced_in IS NOT NULL")
    else:
        db.execute("UPDATE log SET unsynced_in = ? WHERE unsynced_in IS NULL", (incarnation,))


def forget(db: apsw.Connection, incarnation: str | None) -> None:
    """Within a synced transaction, note that all entries of this incarnation are synced."""
    db.execute("UPDATE log SET unsynced_in = NULL WHERE unsynced_in = ?", (incarnation,))


def doubt(db: apsw.Connection) -> None:
    """Within a transaction, note that what was acknowledged after this copy is lost."""
    db.execute("UPDATE log SET unsynced_in = ?", (_RESTORED,))
