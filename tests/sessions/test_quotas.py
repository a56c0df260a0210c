"""What tenants may keep, and what is refused beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gradstep_server.sessions.errors import QuotaExceeded, StorageFull
from gradstep_server.sessions.quotas import Quota, Quotas
from gradstep_server.sessions.store import Usage
from gradstep_server.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


@dataclass
class Kept(MemoryStore):
    """A store that keeps what it is said to keep."""

    by_tenant: dict[str, Usage] = field(default_factory=dict)
    sizes: bool = False
    """Whether sizes are to be asked for."""

    asked: int = 0
    now: float = 0.0

    async def usage(self, *, sizes: bool = True) -> dict[str, Usage]:
        self.asked += 1
        assert sizes == self.sizes
        return dict(self.by_tenant)

    def clock(self) -> float:
        return self.now


async def test_sessions_of_a_tenant_are_counted_and_not_those_of_another() -> None:
    store = Kept({"alice": Usage(2, 0), "bob": Usage(9, 0)})
    quotas = Quotas(store, Quota(sessions=3), store.clock)
    await quotas.admit_session("alice", 10)
    with pytest.raises(QuotaExceeded, match="has 3 sessions of at most 3"):
        await quotas.admit_session("alice", 10)
    await quotas.admit_session("carol", 10)


async def test_what_was_deleted_makes_room_at_once_after_a_second() -> None:
    store = Kept({"alice": Usage(3, 0)})
    quotas = Quotas(store, Quota(sessions=3), store.clock)
    with pytest.raises(QuotaExceeded):
        await quotas.admit_session("alice", 0)
    store.by_tenant["alice"] = Usage(2, 0)
    store.now += 1
    await quotas.admit_session("alice", 0)


async def test_bytes_that_were_written_since_the_last_look_count() -> None:
    store = Kept({"alice": Usage(1, 100)}, sizes=True)
    quotas = Quotas(store, Quota(tenant_size=1000), store.clock)
    for _ in range(9):
        await quotas.admit_entry("alice", 100)
    with pytest.raises(QuotaExceeded, match="1 bytes do not fit beside the 1000"):
        await quotas.admit_entry("alice", 1)
    assert store.asked == 1
    await quotas.admit_entry("alice", 0)  # a rewind, a change of hyperparameters


async def test_all_tenants_together_fill_the_store() -> None:
    store = Kept({"alice": Usage(1, 600), "bob": Usage(1, 300)}, sizes=True)
    quotas = Quotas(store, Quota(store_size=1000), store.clock)
    await quotas.admit_entry("bob", 100)
    with pytest.raises(StorageFull, match="the service may keep 1000"):
        await quotas.admit_session("carol", 1)


async def test_the_store_is_asked_from_time_to_time_and_only_where_it_matters() -> None:
    store = Kept()
    quotas = Quotas(store, Quota(sessions=5), store.clock)
    await quotas.admit_entry("alice", 10**12)
    assert store.asked == 0
    for second in range(0, 21, 5):
        store.now = second
        await quotas.admit_session("alice", 0)
        store.by_tenant["alice"] = Usage(0, 0)
    assert store.asked == 3
