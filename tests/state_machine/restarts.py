"""The end of the service, one way or another, and what it finds when it starts again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import rule
from session_app import Service
from state_machine.base import Ground
from state_machine.checks import answered, true
from state_machine.model import Model

from gradstep_server.metrics import ObservedStore
from gradstep_server.sessions.service import Sessions
from gradstep_server.stores.sqlite import unsynced
from gradstep_server.stores.sqlite.store import SqliteStore


class Restarts(Ground):
    """A service on a store that outlives it."""

    _boots = 0

    @rule(how=st.sampled_from(["closed", "killed", "machine"]))
    def start_again(self, how: str) -> None:
        """Close the service, or have it killed, or the whole machine; then start it again."""
        if how != "closed":
            abandon(self.service)
        if how == "machine":
            self._boot()
        self.restart()
        self._busy = bool(self.models)
        for model in self.models:
            if how == "machine" and model.unsynced:
                self._recover(model)
            self.look_at(model)
            model.unsynced = False

    def _start(self) -> Service:
        if not self._boots:
            self._life.enter_context(patch.object(unsynced, "_BOOT_ID", self._boot_id))
            self._boot()
        return super()._start()

    @property
    def _boot_id(self) -> Path:
        return self.folder / "boot_id"

    def _boot(self) -> None:
        """Begin another life of the machine; what it has written is not lost in this one."""
        self._boots += 1
        self._boot_id.write_text(f"boot {self._boots}\n")

    def _recover(self, model: Model) -> None:
        """Note it if a session suspects a loss: it was synced if enough time had passed."""
        shown = answered(self.service.get(model.path), 200)
        if shown["generation"] != model.generation:
            true(model.relaxed, f"{model.id} was synced, and suspects a loss")
            model.recover()
            self.tally.recoveries += 1


def abandon(service: Service) -> None:
    """Leave the files of a service as its process does when it is killed."""
    sessions: Sessions = service.app.state.services.sessions

    async def drop() -> None:
        tasks = list(sessions._background._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        observed = sessions._store
        assert isinstance(observed, ObservedStore)
        store = observed._within
        assert isinstance(store, SqliteStore)
        logs = store._sessions._logs._held.values()
        for opened in (store._sessions._catalogue, *(held.log for held in logs)):
            with opened._lock:
                opened._drop()

    service._portal.call(drop)
