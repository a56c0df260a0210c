"""How many requests anyone may send in a time: a tenant with its keys, an address without.

The counting is that of the library `limits`; the headers are those of
draft-ietf-httpapi-ratelimit-headers-10. Each process counts for itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil

from limits import RateLimitItem, WindowStats
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradstep_server.keys import ANYONE
from gradstep_server.web.authentication import is_public, known_holder
from gradstep_server.web.errors import TooManyRequests
from gradstep_server.web.problems import render


class RateLimit:
    """ASGI middleware behind `Authentication`: refuses what comes too often.

    Every limit counts every request, also one that another limit refuses. What
    probes and browsers need to find the service is not counted.
    """

    def __init__(self, app: ASGIApp, limits: Sequence[RateLimitItem]) -> None:
        self.app = app
        self.limits = limits
        self.counting = SlidingWindowCounterRateLimiter(MemoryStorage())
        self.policy = ", ".join(
            f'"{_name(limit)}";q={limit.amount};w={_seconds(limit)}' for limit in limits
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and say how many more there may be."""
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        who = _who(scope)
        passed = [await self.counting.hit(limit, who) for limit in self.limits]
        found = [(await self.counting.get_window_stats(limit, who), limit) for limit in self.limits]
        if not all(passed):
            stats, limit = next(pair for pair, ok in zip(found, passed, strict=True) if not ok)
            error = TooManyRequests(f"at most {limit} are answered; wait, and send it again")
            after = {"Retry-After": str(max(1, _until(stats)))}
            answer = render(Request(scope), error, {**self._headers(found), **after})
            await answer(scope, receive, send)
            return
        headers = self._headers(found)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _headers(self, found: Sequence[tuple[WindowStats, RateLimitItem]]) -> dict[str, str]:
        stats, limit = min(found, key=lambda pair: pair[0].remaining / pair[1].amount)
        left = f'"{_name(limit)}";r={max(stats.remaining, 0)};t={_until(stats)}'
        return {"RateLimit-Policy": self.policy, "RateLimit": left}


def _who(scope: Scope) -> str:
    """Return whose request it is."""
    holder = known_holder(scope)
    if holder is not None and holder != ANYONE:
        return f"tenant {holder.tenant}"
    client = scope.get("client")
    return f"address {client[0] if client else 'of this machine'}"


def _name(limit: RateLimitItem) -> str:
    return limit.GRANULARITY.name


def _seconds(limit: RateLimitItem) -> int:
    return limit.get_expiry()


def _until(stats: WindowStats) -> int:
    """Return the whole seconds until the window is over."""
    return max(0, ceil(stats.reset_time - time.time()))
