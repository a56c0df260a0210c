"""What is freed goes back to the system: glibc, left alone, keeps half of its heaps as holes."""

from __future__ import annotations

import asyncio
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 4 * 2**20
_LIBRARY = ctypes.CDLL(None)
"""The C library. What follows does nothing where it is not glibc."""

_INTERVAL = 1.0


def hold_less() -> None:
    """Let glibc have few heaps, and return large arrays to the system as soon as they are freed.

    By default it raises the size from which on it does, up to 32 MB, whenever such an array is
    freed, and has a heap for each thread: arrays of some megabytes then leave holes in all.
    """
    if hasattr(_LIBRARY, "mallopt"):
        _LIBRARY.mallopt(_M_ARENA_MAX, 2)
        _LIBRARY.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        # Else what is freed at a heap's end goes back at once, and is cleared again for the next.
        _LIBRARY.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE)


async def give_back() -> None:
    """Return what is free in the heaps to the system, again and again.

    By itself glibc returns only what lies behind the last thing in use: under many clients, half
    of the heaps are holes.
    """
    while hasattr(_LIBRARY, "malloc_trim"):
        await asyncio.sleep(_INTERVAL)
        await asyncio.to_thread(_LIBRARY.malloc_trim, _LARGE)
