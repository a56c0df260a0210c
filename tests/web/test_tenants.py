"""What the store is asked tells nobody whether another tenant's session is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from access_rows import NUMBERS, OF_A_SESSION, Operation, send, session, state
from key_files import OURS, Callers, bearer
from session_app import Service, running

from gradstep_server import app as root
from gradstep_server.sessions.store import Store
from gradstep_server.stores.memory import MemoryStore

QUESTIONS = {name for name in vars(Store) if not name.startswith("_")}


class ListeningStore(MemoryStore):
    """A store that remembers what it was asked, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.loaded_for: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in QUESTIONS and name not in {"url", "durability", "shared"}:
            self.asked.append(name)
        return super().__getattribute__(name)

    async def load(self, tenant: str, session_id: str) -> Any:
        self.loaded_for.append(tenant)
        return await super().load(tenant, session_id)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ListeningStore:
    state()  # which a service of its own has to make, before this store is everyone's
    listening = ListeningStore()
    monkeypatch.setattr(root, "make_store", lambda _: listening)
    return listening


@pytest.fixture
def service(store: ListeningStore, who: Callers) -> Iterator[Service]:
    with running(keys_file=who.file) as started:
        yield started


@pytest.mark.parametrize("operation", OF_A_SESSION, ids=" ".join)
def test_the_store_is_asked_the_same_for_a_session_of_another_as_for_none(
    service: Service, store: ListeningStore, who: Callers, operation: Operation
) -> None:
    """So that an answer takes the same way, and no clock tells the two apart."""
    ours = session(service, who)  # which is hot: in memory, where a look would be quicker
    assert service.get(f"/v1/sessions/{ours}", headers=bearer(who.keys["read"])).is_success
    asked = []
    for name in (ours, f"t{next(NUMBERS)}"):
        store.asked.clear()
        store.loaded_for.clear()
        send(service, operation, name, who.other)
        asked.append(tuple(store.asked))
        assert OURS not in store.loaded_for
    assert asked[0] == asked[1] != ()


@pytest.mark.parametrize("operation", OF_A_SESSION, ids=" ".join)
@pytest.mark.parametrize("caller", ["none", "wrong"])
def test_who_has_no_key_makes_the_store_do_nothing(
    service: Service, store: ListeningStore, who: Callers, operation: Operation, caller: str
) -> None:
    ours = session(service, who)
    store.asked.clear()
    send(service, operation, ours, who.wrong if caller == "wrong" else None)
    assert store.asked == []
