"""Whatever is damaged is found, wherever it is, and the search goes on behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from lived_session import (
    ENTRIES,
    KEPT,
    REWINDS,
    SETTINGS,
    TRIMMED,
    PieceByPiece,
    copied,
    header_of,
    log_of,
    of_the_same,
    problems,
    walk,
)
from session_runs import REF, created, live, opened
from session_states import captured, packed_all

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Entry, Head
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


def flipped(data: bytes, at: int = 5) -> bytes:
    """Return bytes with one bit changed."""
    changed = bytearray(data)
    changed[at % len(changed)] ^= 1 << at % 8
    return bytes(changed)


def changed(value: Any) -> Any:
    """Return a value of an entry's field with as small a change as there is."""
    if isinstance(value, bytes):
        return flipped(value)
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    return value + 1 if isinstance(value, int) else float(np.nextafter(value, np.inf))


@pytest.mark.parametrize("seq", range(1, ENTRIES + 1))
async def test_a_change_of_any_field_of_any_entry_is_found(
    lived_store: PieceByPiece, seq: int
) -> None:
    for field in fields(Entry):
        store = copied(lived_store)
        entries = log_of(store).entries
        value = changed(getattr(entries[seq - 1], field.name))
        entries[seq - 1] = replace(entries[seq - 1], **{field.name: value})
        found = await problems(store)
        assert any(f"entry {seq}" in problem for problem in found), (field.name, found)


@pytest.mark.parametrize("seq", range(TRIMMED + 1, ENTRIES + 1))
async def test_a_change_of_any_body_is_found(store: PieceByPiece, seq: int) -> None:
    bodies = log_of(store).bodies
    bodies[seq - 1] = flipped(bodies[seq - 1]) if bodies[seq - 1] else b"more"
    found = await problems(store)
    assert any(f"entry {seq}" in problem for problem in found)
    assert len(found) <= 3


@pytest.mark.parametrize("seq", KEPT)
@pytest.mark.parametrize("part", ["record", "seal", "body"])
async def test_a_change_of_any_snapshot_is_found(store: PieceByPiece, seq: int, part: str) -> None:
    kept, body = log_of(store).snapshots[seq]
    if part == "body":
        damaged = (kept, flipped(body))
    else:
        damaged = (replace(kept, **{part: flipped(getattr(kept, part))}), body)
    log_of(store).snapshots[seq] = damaged
    assert await problems(store) == [f"the snapshot at entry {seq} is damaged"]


async def test_a_snapshot_that_would_be_followed_from_behind_its_entry_is_found(
    store: PieceByPiece,
) -> None:
    kept, body = log_of(store).snapshots[31]
    log_of(store).snapshots[31] = (replace(kept, base=32), body)
    found = await problems(store)
    assert found[0].startswith("the snapshot at entry 31 does not lead to a state")


async def test_a_snapshot_whose_entries_were_trimmed_too_early_is_found(
    store: PieceByPiece,
) -> None:
    log = log_of(store)
    log.trimmed, log.bodies[6] = 7, b""
    assert await problems(store) == ["the entries that follow the snapshot at entry 8 are trimmed"]


async def test_without_the_first_snapshot_replay_begins_at_the_next(store: PieceByPiece) -> None:
    log = log_of(store)
    for seq in (8, 31):
        kept, body = log.snapshots[seq]
        log.snapshots[seq] = (kept, flipped(body))
    assert await problems(store) == [f"the snapshot at entry {seq} is damaged" for seq in (8, 31)]


async def test_without_any_snapshot_the_present_state_is_lost(store: PieceByPiece) -> None:
    log_of(store).snapshots.clear()
    assert await problems(store) == ["what is kept does not lead to the present state"]


async def test_damage_before_a_snapshot_does_not_end_the_search(store: PieceByPiece) -> None:
    log = log_of(store)
    log.bodies[13] = flipped(log.bodies[13])  # on the way
    log.bodies[15] = flipped(log.bodies[15])  # on a branch that was left
    log.entries[2] = replace(log.entries[2], step=99)  # trimmed
    kept, body = log.snapshots[23]
    log.snapshots[23] = (kept, flipped(body))
    assert await problems(store) == [
        "entry 3 of the log does not match its seal",
        "the tensors of entry 14 do not match their digest",
        "the tensors of entry 16 do not match their digest",
        "the snapshot at entry 23 is damaged",
        "no retry of step 2 would be recognised",
    ]


async def test_damage_of_a_branch_that_was_left_does_not_hold_up_replay(
    store: PieceByPiece,
) -> None:
    log = log_of(store)
    log.snapshots = {8: log.snapshots[8]}
    log.bodies[15] = flipped(log.bodies[15])
    assert await problems(store) == ["the tensors of entry 16 do not match their digest"]


async def test_damage_behind_the_last_snapshot_loses_the_present_state(
    store: PieceByPiece,
) -> None:
    sessions = opened(store)
    await walk(sessions, 24, 24)
    log = log_of(store)
    log.bodies[-1] = flipped(log.bodies[-1])
    assert await problems(store) == [
        "the tensors of entry 37 do not match their digest",
        "what is kept does not lead to the present state",
    ]


@pytest.mark.parametrize("trimmed", [True, False])
async def test_a_damaged_configuration_is_found(store: PieceByPiece, trimmed: bool) -> None:
    if not trimmed:
        store = PieceByPiece()
        await created(store, steps=2)
    header = await header_of(store)
    store._headers[REF] = replace(header, config=header.config.replace(b"Adam", b"AdaM"))
    expected = ["the configuration of session 's' is damaged"]
    if not trimmed:
        expected.append("what is kept does not lead to the present state")
    assert await problems(store) == expected


@pytest.mark.parametrize("seq", REWINDS)
@pytest.mark.parametrize("back", [0, 2])
async def test_a_rewind_that_goes_elsewhere_is_found(
    store: PieceByPiece, seq: int, back: int
) -> None:
    entries = log_of(store).entries
    entries[seq - 1] = replace(entries[seq - 1], n=seq - back)
    found = await problems(store)
    assert found[0] == f"entry {seq}, a rewind, is damaged: nothing can be replayed"
    assert found[1:] == [f"entry {seq} of the log does not match its seal"]


async def test_a_sealed_snapshot_of_another_state_is_found(store: PieceByPiece) -> None:
    sessions = opened(store)
    await sessions.view(REF)
    state = live(sessions)
    state.tensors["w"].values[1] = np.nextafter(state.tensors["w"].values[1], 9.0)
    kept, parts = captured(state)
    log_of(store).snapshots[ENTRIES] = (kept, b"".join(parts))
    assert await problems(store) == [
        f"the snapshot at entry {ENTRIES} is not what replay arrives at"
    ]


async def test_a_log_of_another_session_is_found(store: PieceByPiece) -> None:
    other = MemoryStore()
    sessions = opened(other)
    await sessions.create(REF, SETTINGS, packed_all({"w": [9.0] * 5, "b": 0.5, "c": [1.0, 2.0]}))
    header = await header_of(store)
    store._logs[header.key] = log_of(other)
    expected = ["the log does not begin with what the session was created with"]
    assert await problems(store) == expected
    log_of(store).entries.clear()
    assert await problems(store) == expected


async def test_an_entry_of_another_session_is_found(store: PieceByPiece) -> None:
    other = PieceByPiece()
    await created(other, steps=13)
    log, strange = log_of(store), log_of(other)
    log.entries[13], log.bodies[13] = strange.entries[13], strange.bodies[13]
    assert (await problems(store))[0].startswith("entry 14 of the log cannot be replayed")


class Incomplete(PieceByPiece):
    """A store that has lost things of which it knows that they were there."""

    lost: tuple[int, ...] = ()
    lost_snapshot: int | None = None
    lost_number: int | None = None

    async def at(self, key: str, seq: int) -> Entry | None:
        return None if seq in self.lost else await super().at(key, seq)

    async def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        async for entry, body in super().replay(key, after, upto):
            if entry.seq in self.lost:
                raise SessionCorrupt(f"Entry {entry.seq} is missing.")
            yield entry, body

    async def snapshot(self, key: str, seq: int) -> Any:
        return None if seq == self.lost_snapshot else await super().snapshot(key, seq)

    async def history(self, key: str, kind: str, after: int, upto: int, limit: int) -> list[Entry]:
        found = await super().history(key, kind, after, upto, limit)
        return [entry for entry in found if entry.n != self.lost_number]


@pytest.fixture
def incomplete(store: PieceByPiece) -> Incomplete:
    return of_the_same(store, Incomplete())


async def test_entries_that_are_missing_are_found(incomplete: Incomplete) -> None:
    incomplete.lost = (2, 16, 33)
    assert await problems(incomplete) == [
        "entry 2 of the log is missing",
        "Entry 16 is missing.",
        "Entry 33 is missing.",
    ]


async def test_a_snapshot_that_is_missing_is_found(incomplete: Incomplete) -> None:
    incomplete.lost_snapshot = 31
    assert await problems(incomplete) == ["the snapshot at entry 31 is missing"]


@pytest.mark.parametrize(("kind", "n"), [("epoch", 1), ("step", 4), ("step", 23)])
async def test_an_entry_that_is_not_found_by_its_number_is_named(
    incomplete: Incomplete, kind: str, n: int
) -> None:
    incomplete.lost_number = n
    expected = [f"no retry of {kind} {n} would be recognised"]
    assert [line for line in await problems(incomplete) if kind in line] == expected


class Outdated(PieceByPiece):
    """A store that finds the oldest entry of a number, on a branch that was left."""

    async def history(self, key: str, kind: str, after: int, upto: int, limit: int) -> list[Entry]:
        found = await super().history(key, kind, after, upto, limit)
        entries = log_of(self).entries
        return [next(e for e in entries if (e.kind, e.n) == (kind, new.n)) for new in found]


async def test_an_entry_of_a_branch_that_was_left_is_not_the_one_to_be_found(
    store: PieceByPiece,
) -> None:
    assert await problems(of_the_same(store, Outdated())) == [
        "no retry of steps 13 to 14 would be recognised",
        "no retry of steps 16 to 20 would be recognised",
    ]


class Ahead(PieceByPiece):
    """A store that counts one step too many."""

    async def head(self, key: str) -> Head:
        head = await super().head(key)
        return replace(head, step=head.step + 1)


async def test_a_head_that_is_not_the_last_entry_is_found(store: PieceByPiece) -> None:
    expected = ["the head of the log does not match its last entry"]
    assert await problems(of_the_same(store, Ahead())) == expected


class Unreadable(PieceByPiece):
    """A store that cannot say where the log stands."""

    async def head(self, _: str) -> Head:
        raise SessionCorrupt("The log is damaged on disk.")


async def test_a_log_that_cannot_be_read_at_all_is_a_problem(store: PieceByPiece) -> None:
    assert await problems(of_the_same(store, Unreadable())) == ["The log is damaged on disk."]
