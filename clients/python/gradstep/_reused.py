"""The memory of one large answer, used again for the next.

Memory that is new to a process is cleared as it is first written, which for
100 MB takes about as long as receiving them. A training loop drops the
parameters of a step when it has those of the next, so two blocks that take
turns are enough, and one is kept while no one uses it.

A block is used again only when Python has freed the array that was lent over
it, so when nothing refers to it any more: the parameters that a step returned
are views that refer to it, and stay as they are for as long as they are held.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 20
"""Bytes from which on it is worth it."""


class Reused:
    """Lends buffers for answers, from any number of threads."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=1)

    @property
    def kept(self) -> int:
        """How many bytes wait for their next use."""
        return sum(map(len, self._free))

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return a buffer of so many bytes, of any content.

        Args:
            size: How many.
        """
        if size < LARGE:
            return np.empty(size, np.uint8)
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(0, np.uint8)
        if not size <= len(block) <= 2 * size:
            block = np.empty(size, np.uint8)
        # Its base is no array: arrays made of it refer to it, and not past it to the block.
        lent = np.frombuffer(block.data, np.uint8, size)
        weakref.finalize(lent, self._free.append, block).atexit = False
        return lent
