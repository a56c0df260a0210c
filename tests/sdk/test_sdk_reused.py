"""The memory of an answer is used again, and never while the caller holds parameters in it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sdk_clients import ADAMW

import gradstep
from gradstep._reused import LARGE, Reused


def address_of(array: NDArray[np.uint8]) -> int:
    return int(array.ctypes.data)


def test_what_came_back_is_lent_again() -> None:
    reused = Reused()
    first = reused.take(LARGE + 8)
    where = address_of(first)
    del first
    assert reused.kept == LARGE + 8
    again = reused.take(LARGE)
    assert (address_of(again), len(again), reused.kept) == (where, LARGE, 0)


@pytest.mark.parametrize("kind", ["slice", "memoryview", "array", "transposed"])
def test_a_buffer_does_not_come_back_while_a_view_of_it_is_left(kind: str) -> None:
    reused = Reused()
    lent = reused.take(LARGE)
    words = np.frombuffer(lent.data, np.uint8)[8:].view(np.float32)
    views: dict[str, object] = {
        "slice": lent[4:],
        "memoryview": lent.data[8:9],
        "array": words,
        "transposed": words[:6].reshape(2, 3).T,
    }
    left = views[kind]
    del lent, words, views
    assert reused.kept == 0
    del left
    assert reused.kept == LARGE


def test_one_block_is_kept_and_only_for_answers_of_about_its_size() -> None:
    reused = Reused()
    lent = [reused.take(LARGE) for _ in range(3)]
    while lent:
        del lent[0]
    assert reused.kept == LARGE
    assert len(reused.take(5 * LARGE)) == 5 * LARGE
    assert reused.kept == 5 * LARGE
    assert len(reused.take(LARGE)) == LARGE
    assert reused.kept == LARGE


def test_small_answers_are_left_to_the_allocator() -> None:
    reused = Reused()
    reused.take(LARGE - 1)
    assert reused.kept == 0


def test_parameters_stay_as_they_are_while_later_steps_use_memory_again(
    client: gradstep.Client,
) -> None:
    start = np.zeros(LARGE // 4 + 7, np.float32)
    session = client.sessions.create(optimizer=ADAMW, params={"w": start})
    held, seen = [], []
    for n in range(1, 7):
        params = session.step({"w": np.full_like(start, n)})
        if n % 2:
            held.append(params["w"][5:])
            seen.append(params["w"][5:].copy())
    assert [np.array_equal(now, then) for now, then in zip(held, seen, strict=True)] == [True] * 3
    assert not np.array_equal(held[0], held[1])
