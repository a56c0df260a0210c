"""Entries of a log that are looked up one by one, proven before anything is told of them.

Replay proves what it replays. A receipt, a page of history and a retry ask for
entries that mostly lie before a snapshot, and are never replayed; an index finds
them, which may be damaged too.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gradstep_server.sessions.digests import seal
from gradstep_server.sessions.entries import INIT, STEP
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.store import Entry, Store


def intact(entry: Entry) -> Entry:
    """Return an entry that is what was written.

    Raises:
        SessionCorrupt: it does not match its seal.
    """
    if seal(entry) != entry.seal:
        raise SessionCorrupt(f"entry {entry.seq} of the log does not match its seal")
    return entry


async def initial(store: Store, key: str) -> Entry | None:
    """Return the entry that set the parameters, None in an empty session."""
    entry = await store.find(key, INIT, 0)
    return None if entry is None else intact(entry)


async def at(store: Store, key: str, seq: int) -> Entry | None:
    """Return the entry at this place of the log, None behind its end."""
    entry = await store.at(key, seq)
    return None if entry is None else intact(entry)


async def find(store: Store, key: str, kind: str, n: int) -> Entry | None:
    """Return step or epoch n, which the session has taken; None where the log begins behind it.

    Raises:
        SessionCorrupt: it is damaged, or missing.
    """
    entry = await store.find(key, kind, n)
    if entry is None:
        if n > await _begun_behind(store, key, kind):
            raise SessionCorrupt(f"{kind} {n} is missing from the log")
        return None
    if (entry.kind, entry.n) != (kind, n):
        raise SessionCorrupt(f"entry {entry.seq} of the log stands in the place of {kind} {n}")
    return intact(entry)


async def steps(store: Store, key: str, after: int, upto: int, limit: int) -> Sequence[Entry]:
    """Return at most `limit` of the steps behind `after`, which go up to `upto`.

    Raises:
        SessionCorrupt: one of them is damaged, or missing.
    """
    entries = await store.history(key, STEP, after, upto, limit)
    first = max(after, await _begun_behind(store, key, STEP)) + 1
    expected = range(first, min(upto + 1, first + limit))
    if [entry.n for entry in entries] != list(expected):
        raise SessionCorrupt(f"of steps {first} to {expected.stop - 1}, not all are in the log")
    size = sum(len(entry.record) for entry in entries)
    return await offload(size, lambda: [intact(entry) for entry in entries])


async def _begun_behind(store: Store, key: str, kind: str) -> int:
    """Return how many steps, or epochs, a session had behind it when its log began."""
    entry = await initial(store, key)
    return 0 if entry is None else int(orjson.loads(entry.record)["asked"][kind])
