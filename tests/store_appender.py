"""A program that appends to a store until it is killed: ``store_appender.py DIR [unsynced]``.

It prints the sequence of every entry whose append has returned. With ``unsynced``
entries may be synced later.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from store_logs import append, entry, header, random_body

from gradstep_server.sessions.store import Body
from gradstep_server.stores.sqlite.store import SqliteStore

SIZES = (0, 10, 5_000, 300_000, 1_500_000, 2_500_000)
"""The sizes of the bodies in turn: in one row, and in several."""


def body_of(seq: int) -> Body:
    """Return the body of entry `seq`, the same in every process."""
    return random_body(seq, SIZES[seq % len(SIZES)])


async def append_for_ever(directory: Path, *, synced: bool) -> None:
    store = SqliteStore(directory)
    await store.open()
    session = await store.load("alice", "a")
    if session is None:
        session = header()
        await store.create(session, None, ())
    seq = (await store.head(session.key)).seq
    while True:
        seq += 1
        await append(store, session.key, entry(seq, body_of(seq)), body_of(seq), synced=synced)
        print(seq, flush=True)


if __name__ == "__main__":
    asyncio.run(append_for_ever(Path(sys.argv[1]), synced="unsynced" not in sys.argv))
