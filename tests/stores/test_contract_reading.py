"""What `sessions.store` promises of the questions to a log, for every store."""

from __future__ import annotations

import asyncio

import pytest
from store_logs import append, entry, expected_log, replayed, started

from gradstep_server.sessions.store import Header, Store

pytestmark = pytest.mark.anyio

LOG = [
    ("step", 1),
    ("epoch", 1),
    ("step", 2),
    ("step", 3),
    ("config", 0),
    ("rewind", 1),
    ("step", 2),
    ("config", 0),
    ("epoch", 1),
    ("rewind", 2),
    ("rewind", 1),
    ("step", 2),
]
"""Kinds and numbers as rewinds leave them: many entries of one n."""


async def rewound(store: Store) -> Header:
    """Start a session with `LOG`."""
    session = await started(store)
    for seq, (kind, n) in enumerate(LOG, start=1):
        await append(store, session.key, entry(seq, kind=kind, n=n))
    return session


async def test_find_returns_the_newest_of_its_kind_and_number(store: Store) -> None:
    key = (await rewound(store)).key
    places = [(kind, n, seq) for seq, (kind, n) in enumerate(LOG, start=1)]

    for kind, n in set(LOG):
        newest = max(seq for other, number, seq in places if (other, number) == (kind, n))
        assert await store.find(key, kind, n) == entry(newest, kind=kind, n=n)
    assert await store.find(key, "epoch", 2) is None
    assert await store.find(key, "init", 0) is None


@pytest.mark.parametrize("kind", ["step", "epoch", "config", "rewind", "recovery"])
async def test_newest_returns_the_last_of_its_kind_up_to_a_place(store: Store, kind: str) -> None:
    key = (await rewound(store)).key

    for upto in (0, *range(1, len(LOG) + 1), 1000):
        places = [seq for seq, (other, _) in enumerate(LOG[:upto], start=1) if other == kind]
        found = await store.newest(key, kind, upto)
        assert (None if found is None else found.seq) == (places[-1] if places else None)
        assert found is None or found == entry(found.seq, kind=kind, n=LOG[found.seq - 1][1])


async def test_every_place_of_the_log_has_its_entry(store: Store) -> None:
    key = (await rewound(store)).key

    for seq, (kind, n) in enumerate(LOG, start=1):
        assert await store.at(key, seq) == entry(seq, kind=kind, n=n)
    assert await store.at(key, 0) is None
    assert await store.at(key, len(LOG) + 1) is None


async def test_history_pages_through_one_kind_by_number(store: Store) -> None:
    session = await started(store)
    for seq in range(1, 21):
        kind, n = ("epoch", seq // 5) if seq % 5 == 0 else ("step", 100 - seq)
        await append(store, session.key, entry(seq, kind=kind, n=n))

    epochs = await store.history(session.key, "epoch", 1, 100, 2)
    steps = await store.history(session.key, "step", 0, 100, 100)

    assert [(found.seq, found.n) for found in epochs] == [(10, 2), (15, 3)]
    assert [found.n for found in steps] == sorted(100 - seq for seq in range(1, 21) if seq % 5)
    assert list(await store.history(session.key, "step", 99, 100, 100)) == []


@pytest.mark.parametrize(
    ("kind", "after", "upto", "limit", "places"),
    [
        ("step", 0, 3, 10, [1, 12, 4]),
        ("step", 0, 2, 10, [1, 12]),
        ("step", 1, 3, 10, [12, 4]),
        ("step", 0, 1000, 2, [1, 12]),
        ("step", 2, 2, 10, []),
        ("step", 3, 1, 10, []),
        ("epoch", 0, 9, 10, [9]),
        ("rewind", 0, 9, 10, [11, 10]),
        ("config", 0, 9, 10, []),
        ("config", -1, 0, 10, [8]),
    ],
)
async def test_history_has_the_newest_entry_of_each_number(
    store: Store, kind: str, after: int, upto: int, limit: int, places: list[int]
) -> None:
    key = (await rewound(store)).key

    found = await store.history(key, kind, after, upto, limit)

    assert list(found) == [entry(seq, kind=kind, n=LOG[seq - 1][1]) for seq in places]


@pytest.mark.parametrize(
    ("after", "upto", "first", "last"),
    [
        (0, None, 1, 150),
        (0, 150, 1, 150),
        (0, 1000, 1, 150),
        (0, 1, 1, 1),
        (0, 65, 1, 65),
        (37, 140, 38, 140),
        (149, None, 150, 150),
        (150, None, 1, 0),
        (0, 0, 1, 0),
        (50, 50, 1, 0),
        (50, 49, 1, 0),
        (1000, 1001, 1, 0),
    ],
)
async def test_replay_yields_what_lies_between_two_places(
    store: Store, after: int, upto: int | None, first: int, last: int
) -> None:
    session = await started(store, steps=150)

    assert await replayed(store, session.key, after, upto) == expected_log(first, last)


async def test_a_replay_may_be_left_and_others_go_on(store: Store) -> None:
    session = await started(store, steps=100)

    replay = store.replay(session.key, 10)
    assert (await anext(replay))[0].seq == 11
    logs = await asyncio.gather(*(replayed(store, session.key, after) for after in (0, 50, 90)))

    assert logs == [expected_log(1, 100), expected_log(51, 100), expected_log(91, 100)]
    assert (await anext(replay))[0].seq == 12
