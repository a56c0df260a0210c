"""Snapshots bound the log, and a session that starts from one is the same session."""

from __future__ import annotations

import pytest
from session_runs import REF, SlowStore, created, held, live, opened, step

from gradstep_server.sessions import journal
from gradstep_server.sessions.errors import SessionCorrupt, StepConflict, StorageFull
from gradstep_server.sessions.store import Body, Snapshot
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

STEP_BYTES = 24
"""The gradients of one step, of 3 float64."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a snapshot due as soon as the log has grown by two steps."""
    monkeypatch.setattr(journal, "SNAPSHOT_FLOOR", STEP_BYTES)
    monkeypatch.setattr(journal, "SNAPSHOT_FACTOR", 0)


async def test_a_snapshot_is_due_once_the_log_outgrows_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "SNAPSHOT_FLOOR", 0)
    store = MemoryStore()
    sessions = await created(store)
    assert live(sessions).nbytes == 3 * STEP_BYTES
    for n in range(1, 14):
        await step(sessions, n)
        await sessions.close()
        kept = await store.snapshot(sessions._hot._all[REF].loaded()[0].key)
        # The creation counts for the parameters' 24 bytes.
        assert (kept is not None) == (n >= 12)


async def test_no_snapshot_is_due_of_a_short_log() -> None:
    store = MemoryStore()
    sessions = await created(store, steps=30)
    await sessions.close()
    assert await store.snapshot(sessions._hot._all[REF].loaded()[0].key) is None


@pytest.mark.usefixtures("often")
async def test_a_session_restarts_from_a_snapshot_and_a_trimmed_log() -> None:
    store = SlowStore()
    sessions = await created(store, steps=20)
    await sessions.close()
    key = sessions._hot._all[REF].loaded()[0].key
    kept = await store.snapshot(key)
    assert kept is not None
    assert kept[0].seq > 15
    with pytest.raises(SessionCorrupt):
        [entry async for entry in store.replay(key, 0)]
    restarted = opened(store)
    assert await held(restarted) == await held(sessions)
    await step(restarted, 21)
    await step(sessions, 21)
    plain = await created(SlowStore(), steps=21)
    assert (await held(restarted))[1] == (await held(plain))[1]


@pytest.mark.usefixtures("often")
async def test_trimmed_steps_still_answer_retries() -> None:
    sessions = await created(SlowStore(), steps=20)
    await sessions.close()
    assert (await step(sessions, 1)).receipt.replayed
    with pytest.raises(StepConflict):
        await step(sessions, 2, {"b": 3.0})
    assert len((await sessions.history(REF, 0, 100)).receipts) == 20


class FullStore(MemoryStore):
    """A store with no room for snapshots."""

    async def put_snapshot(self, key: str, snapshot: Snapshot, body: Body) -> None:  # noqa: ARG002  # a store's signature
        raise StorageFull("no space left")


@pytest.mark.usefixtures("often")
async def test_a_snapshot_that_fails_costs_nothing_but_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FullStore()
    sessions = await created(store, steps=5)
    await sessions.close()
    assert "no snapshot of session s: no space left" in caplog.text
    assert await held(opened(store)) == await held(sessions)


@pytest.mark.usefixtures("often")
async def test_a_session_that_is_deleted_before_its_snapshot_leaves_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions = await created(SlowStore(), steps=1)
    await step(sessions, 2)
    await sessions.delete(REF, version=None)
    await sessions.close()
    assert all(record.levelname == "WARNING" for record in caplog.records)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("part", ["body", "record", "seal"])
async def test_a_damaged_snapshot_is_never_used(part: str) -> None:
    store = MemoryStore()
    sessions = await created(store, steps=20)
    await sessions.close()
    log = store._logs[sessions._hot._all[REF].loaded()[0].key]
    for seq, (snapshot, body) in log.snapshots.items():
        record, seal = bytearray(snapshot.record), bytearray(snapshot.seal)
        data = bytearray(body)
        {"body": data, "record": record, "seal": seal}[part][5] ^= 1
        broken = Snapshot(seq, bytes(record), bytes(seal), len(data))
        log.snapshots[seq] = (broken, bytes(data))
    with pytest.raises(SessionCorrupt, match="snapshot at entry"):
        await opened(store).view(REF)
