"""What `sessions.store` promises of sessions: creating, loading, listing, keeping them apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from store_logs import (
    EMPTY,
    append,
    entry,
    expected_log,
    grow,
    head,
    header,
    joined,
    newest_snapshot,
    put_snapshot,
    random_body,
    replayed,
    snapshot,
    started,
)

from gradstep_server.sessions.errors import IdTaken, SequenceTaken
from gradstep_server.sessions.store import Store

pytestmark = pytest.mark.anyio

MIB = 2**20


async def test_an_empty_log_stands_at_zero_since_its_creation(store: Store) -> None:
    session = await started(store)

    assert await store.head(session.key) == EMPTY
    assert await replayed(store, session.key) == []
    assert await store.at(session.key, 1) is None
    assert await store.find(session.key, "step", 1) is None
    assert await store.newest(session.key, "step", 9) is None
    assert list(await store.snapshots(session.key)) == []
    assert await store.snapshot(session.key, 0) is None
    await store.sync(session.key)
    await store.trim(session.key, 0)


async def test_a_session_is_created_with_its_first_entry(store: Store) -> None:
    session, body = header(), random_body(2, 3 * MIB)

    await store.create(session, entry(1, body, kind="init", n=0), body)

    assert await store.load("alice", "a") == session
    assert await replayed(store, session.key) == [(entry(1, body, kind="init", n=0), joined(body))]
    assert await store.head(session.key) == head(1)


async def test_an_id_is_given_once(store: Store) -> None:
    first, second = header(), replace(header(), digest=b"another")
    await store.create(first, None, ())

    with pytest.raises(IdTaken) as refusal:
        await store.create(second, entry(1), ())

    assert refusal.value.header == first
    assert await store.load("alice", "a") == first
    assert await store.head(first.key) == EMPTY
    assert (await store.head(second.key)).seq == 0


async def test_of_many_racing_creators_exactly_one_wins(writers: list[Store]) -> None:
    rivals = [header() for _ in range(16)]
    body = random_body(3, 1000)

    outcomes = await asyncio.gather(
        *(
            writers[number % len(writers)].create(rival, entry(1, body), body)
            for number, rival in enumerate(rivals)
        ),
        return_exceptions=True,
    )

    [winner] = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    losses = [outcome for outcome in outcomes if outcome is not None]
    assert [loss.header for loss in losses if isinstance(loss, IdTaken)] == [winner] * 15
    for store in writers:
        assert await store.load("alice", "a") == winner
        for rival in rivals:
            assert (await store.head(rival.key)).seq == (1 if rival is winner else 0)


async def test_an_unknown_session_is_none_and_its_log_takes_nothing(store: Store) -> None:
    assert await store.load("alice", "nobody") is None
    with pytest.raises(SequenceTaken):
        await append(store, "ab" * 16, entry(1))


async def test_sessions_are_listed_by_id_in_pages(store: Store) -> None:
    for session_id in ("b", "c", "a.2", "B", "a", "a-1"):
        await started(store, session_id, steps=1)

    page = await store.list("alice", "", 4)
    rest = await store.list("alice", page[-1][0].id, 4)

    assert [found.id for found, _ in page] == ["B", "a", "a-1", "a.2"]
    assert [found.id for found, _ in rest] == ["b", "c"]
    assert {head for _, head in (*page, *rest)} == {head(1)}
    assert list(await store.list("alice", "c", 4)) == []


async def test_pages_miss_no_session_while_others_come_and_go(store: Store) -> None:
    sessions = {name: await started(store, name, steps=1) for name in "bdfhj"}
    seen, after = [], ""
    while page := await store.list("alice", after, 2):
        seen += [found.id for found, _ in page]
        after = seen[-1]
        if after == "d":
            await store.delete(sessions["d"], 1)
            await store.delete(sessions["f"], 1)
            await started(store, "a")
            await started(store, "g", steps=2)

    assert seen == ["b", "d", "g", "h", "j"]


async def test_a_tenant_sees_only_its_own_sessions(store: Store) -> None:
    mine, theirs = header(tenant="alice"), header(tenant="bob")
    await store.create(mine, None, ())
    await store.create(theirs, None, ())
    await grow(store, theirs.key, 1, 2)

    assert await store.load("alice", "a") == mine
    assert await store.load("bob", "a") == theirs
    assert await store.list("alice", "", 10) == [(mine, EMPTY)]
    assert await store.list("carol", "", 10) == []


async def test_what_is_kept_is_told_by_tenant(store: Store) -> None:
    assert await store.usage() == {}
    last = header("only", tenant="Carol")
    for kept in (header("a", tenant="bob"), header("b", tenant="bob"), header("a"), last):
        await store.create(kept, None, ())

    usage = await store.usage()
    assert {tenant: kept.sessions for tenant, kept in usage.items()} == {
        "Carol": 1,
        "alice": 1,
        "bob": 2,
    }
    assert list(usage) == ["Carol", "alice", "bob"]
    counted = await store.usage(sizes=False)
    assert [(tenant, kept.sessions, kept.nbytes) for tenant, kept in counted.items()] == [
        ("Carol", 1, 0),
        ("alice", 1, 0),
        ("bob", 2, 0),
    ]
    await store.delete(last, 0)
    assert list(await store.usage()) == ["alice", "bob"]


async def test_bytes_are_those_of_bodies_and_of_little_more(store: Store) -> None:
    session, body = header(), random_body(4, 3 * MIB)
    await store.create(session, entry(1, body, kind="init", n=0), body)
    first = (await store.usage())["alice"].nbytes
    await append(store, session.key, entry(2, body), body)
    second = (await store.usage())["alice"].nbytes

    assert 3 * MIB <= first <= 5 * MIB
    assert 5 * MIB <= second <= 9 * MIB


async def test_two_hundred_sessions_are_kept_apart(store: Store) -> None:
    sessions = [await started(store, f"s{number:03}") for number in range(200)]

    async def step_thrice(number: int) -> None:
        for seq in (1, 2, 3):
            body = random_body(number * 10 + seq, 300)
            await append(store, sessions[number].key, entry(seq, body), body)

    await asyncio.gather(*(step_thrice(number) for number in range(200)))

    for number, session in enumerate(sessions):
        bodies = [body for _, body in await replayed(store, session.key)]
        assert bodies == [joined(random_body(number * 10 + seq, 300)) for seq in (1, 2, 3)]
    seen, after = [], ""
    while page := await store.list("alice", after, 70):
        seen += [(found.id, stands.seq) for found, stands in page]
        after = page[-1][0].id
    assert seen == [(f"s{number:03}", 3) for number in range(200)]


async def test_a_durable_store_keeps_everything_across_a_restart(
    make_store: Callable[[], Store],
) -> None:
    first = make_store()
    await first.open()
    stepped = await started(first, "stepped", steps=7)
    deleted = await started(first, "deleted", steps=1)
    await first.delete(deleted, 1)
    body = random_body(4, 3 * MIB)
    for seq in (3, 7):
        await put_snapshot(first, stepped.key, snapshot(seq, body, base=seq - 1), body)
    await first.trim(stepped.key, 3)
    survives = first.url != "memory://"
    await first.close()

    second = make_store()
    await second.open()
    try:
        assert await second.load("alice", "stepped") == (stepped if survives else None)
        if survives:
            assert await second.head(stepped.key) == head(7, trimmed=2)
            assert list(await second.snapshots(stepped.key)) == [(3, 2), (7, 6)]
        log = await replayed(second, stepped.key, after=2)
        assert log == (expected_log(3, 7) if survives else [])
        assert (await second.load("alice", "deleted") is not None) == survives
        kept = await newest_snapshot(second, stepped.key)
        assert kept == ((snapshot(7, body, base=6), joined(body)) if survives else None)
    finally:
        await second.close()


async def test_check_passes_on_a_healthy_store(store: Store) -> None:
    await store.check()

    assert store.durability
    assert await store.load("alice", "a") is None
