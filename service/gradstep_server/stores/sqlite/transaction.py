"""Writing in a file: in one transaction, synced or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw


@contextmanager
def transaction(db: apsw.Connection, *, durable: bool = True) -> Iterator[None]:
    """Write in one transaction; a durable one is on disk when this ends.

    One that is not durable is there whole or not at all, and no later than the
    next durable one of the same file.
    """
    db.pragma("synchronous", "full" if durable else "normal")
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise
