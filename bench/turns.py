"""Measuring several things in turn, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import gc
import mmap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

Turn = Callable[[int], float]
"""Makes so many calls of one thing, and returns the median of their seconds."""

REST = 0.005
"""Seconds before a turn: OpenMP's threads keep a core busy for some after their work."""


def turn_about(
    things: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls: int,
    memory: int = 0,
    elsewhere: Mapping[str, Turn] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of a call of each thing, one number for each round.

    Every thing has one turn in a round, in an order that is reversed from
    round to round. In its turn it is called once to be warm, in caches and
    threads, then `calls` times; the turn's number is the median of those.

    Args:
        things: what is measured.
        rounds: how often each has its turn.
        calls: how many calls a turn has.
        memory: bytes that are at hand when a round begins, since its things take more of it
            than they give back.
        elsewhere: things that another process calls.
    """
    turns = {name: turn_of(thing) for name, thing in things.items()} | dict(elsewhere or {})
    measured: dict[str, list[float]] = {name: [] for name in turns}
    with no_garbage_collection():
        for number in range(rounds):
            have_at_hand(memory)
            for name in list(turns)[:: -1 if number % 2 else 1]:
                time.sleep(REST)
                measured[name].append(turns[name](calls))
    return measured


def turn_of(thing: Callable[[], object]) -> Turn:
    """Return the turns of what this process calls."""

    def turn(calls: int) -> float:
        thing()
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            thing()
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    return turn


def have_at_hand(nbytes: int) -> None:
    """Touch so much memory and free it, so that the system has it for whoever asks next.

    The host of a virtual machine may take back what is free: to get it again then takes two
    milliseconds for each megabyte, many times what is to be measured.
    """
    if nbytes:
        with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                block.madvise(mmap.MADV_HUGEPAGE)
            for page in range(0, nbytes, mmap.PAGESIZE):
                block[page] = 1


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep a collection from being counted as the work of whoever it interrupts."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
