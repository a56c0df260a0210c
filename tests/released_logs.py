"""Logs that released versions of gradstep have left, held against what those have read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from store_logs import replayed

from gradstep_server.sessions.store import Entry, Head, Snapshot, Store

Facts = dict[str, dict[str, Any]]
"""By id of a session, what a released version has read of it."""


def read_facts(path: Path) -> Facts:
    """Return what a generator has written beside what the released version has left."""
    facts: Facts = json.loads(path.read_text())
    return facts


async def check(store: Store, facts: Facts, *, suspect: bool = False) -> None:
    """Hold everything that can be read against what the released version has read.

    Args:
        store: what reads it.
        facts: what the released version has read.
        suspect: whether every log with entries should be suspect.
    """
    assert {name for name, known in facts.items() if not known["deleted"]} == {
        header.id for header, _ in await store.list("default", "", 100)
    }
    for name, known in facts.items():
        header = await store.load("default", name)
        assert header is not None
        assert (header.key, header.digest.hex(), header.created_at) == (
            known["key"],
            known["digest"],
            known["created_at"],
        )
        assert (header.deleted_at is not None) == known["deleted"]
        if entries := known.get("entries"):
            await _check_log(store, header.key, known, entries)
            assert (await store.head(header.key)).suspect == suspect


async def _check_log(
    store: Store, key: str, known: dict[str, Any], entries: list[list[Any]]
) -> None:
    seq, _, _, step, _, _, seal, _, created_at, _ = entries[-1]
    trimmed = known["trimmed"]
    head = await store.head(key)
    assert replace(head, suspect=False) == Head(seq, step, created_at, bytes.fromhex(seal), trimmed)
    for wanted in entries:
        found = await store.at(key, wanted[0])
        assert found is not None
        assert _line(found) == wanted[:-1]
        newest = await store.newest(key, wanted[1], wanted[0])
        assert newest == found
    bodies = [_digest(body) for _, body in await replayed(store, key, trimmed)]
    assert bodies == [wanted[-1] for wanted in entries[trimmed:]]
    assert list(await store.snapshots(key)) == [(kept[0], kept[0]) for kept in known["snapshots"]]
    for wanted in known["snapshots"]:
        kept = await store.snapshot(key, wanted[0])
        assert kept is not None
        assert [*_line(kept[0]), _digest(kept[1])] == wanted


def _plain(value: Any) -> Any:
    """Return bytes as the generator writes them."""
    if not isinstance(value, bytes):
        return value
    return value.hex() if len(value) <= 32 else hashlib.sha256(value).hexdigest()


def _line(entry: Entry | Snapshot) -> list[Any]:
    return [_plain(getattr(entry, name)) for name in entry.__slots__ if name != "base"]


def _digest(body: bytes | memoryview) -> str | None:
    return hashlib.sha256(body).hexdigest() if len(body) else None
