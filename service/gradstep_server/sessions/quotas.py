"""How much tenants may keep, and all of them together.

What is kept is asked of the store from time to time; between two such looks,
what this process writes is added. So a limit is exceeded by at most what is
being written, or by what other processes write between two looks.

Deletes, rewinds, and what changes a few numbers are never refused: they are the
way out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from gradstep_server.sessions.errors import QuotaExceeded, StorageFull, Unavailable
from gradstep_server.sessions.store import NOTHING, Store, Usage

_LOOKS = 10.0
"""Seconds after which the store is asked again."""

_LOOKS_BEFORE_REFUSAL = 1.0
"""Likewise where a write would be refused: something may have been deleted since."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits; None for none."""

    sessions: int | None = None
    """The most sessions of a tenant."""

    tenant_size: int | None = None
    """The most bytes that a tenant's sessions take in the store."""

    store_size: int | None = None
    """The most bytes that all sessions take in the store."""


NO_QUOTA = Quota()


class Quotas:
    """Admits what is to be written."""

    def __init__(
        self, store: Store, quota: Quota, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._quota = quota
        self._clock = clock
        self._sizes = (quota.tenant_size, quota.store_size) != (None, None)
        self._kept: dict[str, Usage] = {}
        self._looked = -inf
        self._look = asyncio.Lock()

    async def admit_session(self, tenant: str, nbytes: int) -> None:
        """Count a session that is about to be created, with tensors of so many bytes.

        Raises:
            QuotaExceeded, StorageFull: it may not be.
        """
        if self._quota != NO_QUOTA:
            await self._admit(tenant, Usage(1, nbytes))

    async def admit_entry(self, tenant: str, nbytes: int) -> None:
        """Count an entry that is about to be appended, with a body of so many bytes.

        Raises:
            QuotaExceeded, StorageFull: it may not be.
        """
        if nbytes and self._sizes:
            await self._admit(tenant, Usage(0, nbytes))

    async def _admit(self, tenant: str, more: Usage) -> None:
        await self._look_after(_LOOKS)
        refusal = self._refusal(tenant, more)
        if refusal is not None:
            await self._look_after(_LOOKS_BEFORE_REFUSAL)
            refusal = self._refusal(tenant, more)
        if refusal is not None:
            raise refusal
        self._kept[tenant] = self._of(tenant) + more

    def _refusal(self, tenant: str, more: Usage) -> Unavailable | None:
        quota, then = self._quota, self._of(tenant) + more
        if more.sessions and quota.sessions is not None and then.sessions > quota.sessions:
            return QuotaExceeded(
                f"the tenant {tenant!r} has {then.sessions - more.sessions} sessions of at most "
                f"{quota.sessions}; delete one first"
            )
        if quota.tenant_size is not None and then.nbytes > quota.tenant_size:
            return QuotaExceeded(
                f"{more.nbytes} bytes do not fit beside the {then.nbytes - more.nbytes} that the "
                f"tenant {tenant!r} keeps; it may keep {quota.tenant_size}: delete a session, or "
                "let sessions retain less"
            )
        kept = sum(usage.nbytes for usage in self._kept.values())
        if quota.store_size is not None and kept + more.nbytes > quota.store_size:
            return StorageFull(
                f"{more.nbytes} bytes do not fit beside the {kept} that are kept; the service may "
                f"keep {quota.store_size}"
            )
        return None

    def _of(self, tenant: str) -> Usage:
        return self._kept.get(tenant, NOTHING)

    async def _look_after(self, seconds: float) -> None:
        """Ask the store what it keeps, if it was asked longer ago."""
        async with self._look:
            if self._clock() - self._looked >= seconds:
                self._kept = dict(await self._store.usage(sizes=self._sizes))
                self._looked = self._clock()
