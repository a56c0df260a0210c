"""A snapshot that is not what was written is never used, and an older one will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from lived_session import log_of, problems
from session_runs import REF, SlowStore, created, held, live, opened, step

from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.digests import body, canonical, index, snapshot_seal
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Snapshot

pytestmark = pytest.mark.anyio

OFTEN = SnapshotPolicy(steps=4)
STEPS = 22
KEPT = [17, 21]
"""The snapshots that are kept of so many steps; what is before the first of them is trimmed."""

Kept = tuple[Snapshot, bytes]
"""A snapshot with its body."""


def flipped(data: bytes) -> bytes:
    """Return bytes of which one bit is another."""
    return bytes([*data[:5], data[5] ^ 1, *data[6:]])


def resealed(kept: Kept, facts: Any) -> Kept:
    """Return a snapshot that says something else, and is sealed."""
    snapshot, body = kept
    record = canonical(facts)
    return replace(snapshot, record=record, seal=snapshot_seal(snapshot.seq, record, [])), body


def without(name: str) -> Callable[[Kept], Kept]:
    """Return what makes a snapshot leave a fact out."""

    def leave_out(kept: Kept) -> Kept:
        facts = orjson.loads(kept[0].record)
        del facts[name]
        return resealed(kept, facts)

    return leave_out


def of_another_history(kept: Kept) -> Kept:
    return resealed(kept, {**orjson.loads(kept[0].record), "seal": bytes(32).hex()})


DAMAGE: dict[str, Callable[[Kept], Kept]] = {
    "body": lambda kept: (kept[0], flipped(kept[1])),
    "record": lambda kept: (replace(kept[0], record=flipped(kept[0].record)), kept[1]),
    "seal": lambda kept: (replace(kept[0], seal=flipped(kept[0].seal)), kept[1]),
    "base": lambda kept: (replace(kept[0], base=kept[0].base - 1), kept[1]),
    "a base behind the log": lambda kept: (replace(kept[0], base=99), kept[1]),
    "another history": of_another_history,
    "no facts": lambda kept: resealed(kept, 5),
    **{
        f"no {name}": without(name)
        for name in ("config", "step", "shapes", "slots", "seal", "pieces")
    },
}


async def run() -> tuple[SlowStore, Sessions]:
    """Take steps, and let all snapshots end."""
    store = SlowStore()
    sessions = await created(store, policy=OFTEN)
    for n in range(1, STEPS + 1):
        await step(sessions, n)
        await sessions.close()
    assert list(log_of(store).snapshots) == KEPT
    assert log_of(store).trimmed == KEPT[0]
    return store, sessions


def damage(store: SlowStore, seq: int, kind: str) -> None:
    log = log_of(store)
    log.snapshots[seq] = DAMAGE[kind](log.snapshots[seq])


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_session_whose_newest_snapshot_is_damaged_begins_with_the_one_before(
    caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    store, sessions = await run()
    damage(store, KEPT[1], kind)

    restarted = opened(store)

    assert await held(restarted) == await held(sessions)
    [warning] = caplog.messages
    assert warning.startswith("session s: ")
    assert warning.endswith("; it is rebuilt from entry 17")
    await step(restarted, STEPS + 1)
    await step(sessions, STEPS + 1)
    assert (await held(restarted))[1] == (await held(sessions))[1]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("seq", KEPT)
async def test_verification_finds_it_all_the_same(seq: int, kind: str) -> None:
    store, _ = await run()
    assert await problems(store) == []
    damage(store, seq, kind)

    found = await problems(store)

    assert f"snapshot at entry {seq}" in found[0]
    assert len(found) == 1


@pytest.mark.parametrize("kind", DAMAGE)
async def test_without_an_older_snapshot_a_session_is_rebuilt_from_its_log(kind: str) -> None:
    store = SlowStore()
    sessions = await created(store, policy=SnapshotPolicy(steps=5), steps=5)
    await sessions.close()
    assert list(log_of(store).snapshots) == [6]
    assert log_of(store).trimmed == 0
    await step(sessions, 6)
    damage(store, 6, kind)

    assert await held(opened(store)) == await held(sessions)


async def test_where_the_log_behind_the_older_one_is_trimmed_there_is_no_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, _ = await run()
    damage(store, KEPT[1], "body")
    log_of(store).trimmed = KEPT[0] + 1

    with pytest.raises(SessionCorrupt, match="snapshot at entry 21 is damaged"):
        await opened(store).view(REF)
    assert caplog.messages == []


async def test_where_all_snapshots_are_damaged_the_newest_is_named() -> None:
    store, _ = await run()
    for seq in KEPT:
        damage(store, seq, "body")

    with pytest.raises(SessionCorrupt, match="snapshot at entry 21 is damaged"):
        await opened(store).view(REF)


async def test_a_log_that_is_damaged_behind_the_older_one_is_not_replayed() -> None:
    store, _ = await run()
    damage(store, KEPT[1], "body")
    log = log_of(store)
    log.bodies[KEPT[0]] = flipped(log.bodies[KEPT[0]])

    with pytest.raises(SessionCorrupt, match="entry 18"):
        await opened(store).view(REF)


async def test_going_back_passes_a_damaged_snapshot_too() -> None:
    store, sessions = await run()
    damage(store, KEPT[1], "body")
    restarted = opened(store)

    assert await restarted.state(REF, 21) == await sessions.state(REF, 21)
    for both in (restarted, sessions):
        await both.rewind(REF, 21, generation=None, version=None)
    assert (await held(restarted))[1] == (await held(sessions))[1]
    assert (await step(restarted, 22)).receipt.step == 22


def of_the_first_format(state: State) -> Kept:
    """Return a snapshot as the first version has made it: of one entry, which it does not name."""
    facts, tensors = state.dump()
    record, parts = canonical({**facts, "tensors": index(tensors)}), body(tensors)
    seal = snapshot_seal(state.seq, record, parts)
    data = b"".join(parts)
    return Snapshot(state.seq, state.seq, record, seal, len(data)), data


async def test_a_snapshot_of_the_first_format_is_of_its_own_entry() -> None:
    store, sessions = await run()
    await sessions.view(REF)
    kept, data = of_the_first_format(live(sessions))
    snapshots = log_of(store).snapshots

    snapshots[kept.seq] = (kept, data)
    assert (await held(opened(store)))[1] == (await held(sessions))[1]
    snapshots.clear()
    snapshots[kept.seq] = (replace(kept, base=kept.seq - 1), data)
    with pytest.raises(SessionCorrupt, match="of another history"):
        await opened(store).view(REF)
