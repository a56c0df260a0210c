"""Work that would hold up the event loop goes to a thread; small work stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_INLINE_BELOW = 65_536
"""Elements below which the work takes less than a hop to a thread (0.3 ms)."""

ARITHMETIC = 4
"""Elements that a step's loops and digests do in the time of one of other work."""

COPYING = 16
"""Likewise, elements that are copied."""

P = ParamSpec("P")
T = TypeVar("T")


async def offload(elements: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`, in a thread if it works on many elements."""
    if elements < _INLINE_BELOW:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
