"""Memory for bodies and answers, used again instead of mapped again.

Memory that is new to a process is cleared page by page as it is first written,
which for a body of 100 MB takes as long as computing the step. So what a
request is done with is kept for the next one, up to a limit.

What is lent is counted in a `Room`, so that there is a limit to it as well.

No buffer is used again while anything can still read it. What `Buffers.take`
returns is a view of an array made for this one use; slices of the view, and
NumPy arrays made of them, refer to that array and thereby keep it alive: the
log that is appended to, the kernels, and the socket hold the memory by holding
their views. The block below returns only when Python has freed the array, so
when no reference to it is left anywhere: there is no call that gives memory
back too early, and none that can be forgotten.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable

import numpy as np

from gradstep_server.sessions.room import Room

SMALL = 256 * 1024
"""Bytes below which the allocator itself has memory that was used before."""

_ROUNDED_TO = 64 * 1024
_SPARE = 8
"""A kept block serves if at most one part in so many of it stays unused."""

_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)


class Buffers:
    """Lends buffers, and keeps those that came back, the newest first."""

    def __init__(self, limit: int, room: Room | None = None) -> None:
        """Keep at most `limit` bytes that no one uses, and lend as many as `room` has."""
        self.room = room or Room(sys.maxsize)
        """Where what is lent is counted by default."""

        self._limit = limit
        self._free: deque[mmap.mmap] = deque()
        self._kept = 0
        # Reentrant: the collector may free an array, and so give its block back, at any point.
        self._lock = threading.RLock()

    @property
    def kept(self) -> int:
        """How many bytes wait for their next use."""
        return self._kept

    def take(self, nbytes: int, room: Room | None = None) -> memoryview:
        """Return a writable buffer of any content, aligned for every dtype.

        What is new of it costs memory only as it is written. What is `SMALL` is not counted.

        Args:
            nbytes: its size.
            room: where it is counted, if not in the room that these buffers have.

        Raises:
            Busy: so much would not fit beside what is lent.
            MemoryError: there is none.
        """
        if nbytes < SMALL:
            return np.empty(nbytes, np.uint8).data
        size, room = _rounded(nbytes), room or self.room
        room.take(size)
        try:
            block = self._found(nbytes) or _mapped(size)
        except BaseException:
            room.give_back(size)
            raise
        # Its base is no array: arrays made of it refer to it, and not past it to its base.
        lent = np.frombuffer(block, np.uint8, nbytes)
        weakref.finalize(lent, self._give_back, block, room, size).atexit = False
        return lent.data

    def _found(self, nbytes: int) -> mmap.mmap | None:
        with self._lock:
            for block in tuple(self._free):  # the collector may add to it, and take from it
                size = len(block)
                fits = nbytes <= size <= nbytes + nbytes // _SPARE + _ROUNDED_TO
                if fits and block in self._free:
                    self._free.remove(block)
                    self._kept -= size
                    return block
        return None

    def _give_back(self, block: mmap.mmap, room: Room, size: int) -> None:
        room.give_back(size)
        with self._lock:
            self._free.appendleft(block)
            self._kept += len(block)
            while self._kept > self._limit:
                self._kept -= len(self._free.pop())


NOTHING_KEPT = Buffers(0)
"""Every buffer new."""


def fill(room: memoryview, pieces: Iterable[memoryview]) -> None:
    """Write pieces of bytes into a buffer, one behind the other; other threads run meanwhile."""
    there, start = np.asarray(room), 0
    for piece in pieces:
        stop = start + piece.nbytes
        np.copyto(there[start:stop], np.asarray(piece))
        start = stop


def _rounded(nbytes: int) -> int:
    return -(-nbytes // _ROUNDED_TO) * _ROUNDED_TO


def _mapped(size: int) -> mmap.mmap:
    """Return new memory, which goes back to the system when the last reference to it goes."""
    try:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"there is no memory for {size} bytes") from error
    if _HUGE_PAGES is not None:
        block.madvise(_HUGE_PAGES)
    return block
