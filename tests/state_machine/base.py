"""The machine's ground: a service, the sessions that it must have, and what always holds."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import httpx
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant
from session_app import Service, running
from state_machine.checks import answered, equal, same_decays, same_params, same_tensors, true
from state_machine.drawn import SHAPES
from state_machine.model import Model
from state_machine.oracle import StateFile, same_rates

from gradstep_server.sessions import background, snapshots
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.service import Sessions

SESSIONS: Bundle[Model] = Bundle("sessions")
MOST = 4
"""Sessions at a time: more would only spread the rules thinner."""

_OTHERS = 3
"""After so many operations a session is looked at that they may not have used."""

_SNAPSHOT_STEPS = 2
_PIECE = 2
"""Elements of a snapshot's piece, so that small tensors have several."""

_SYNC_AFTER = 5.0
"""Seconds until a relaxed step is synced, so that a machine often ends before that."""

_PAUSE = 0.001
"""Seconds before each piece of a snapshot, so that requests come between them."""


@dataclass
class Tally:
    """What the machines of a run did."""

    operations: int = 0
    """Rules that sent at least one request."""

    requests: int = 0
    sessions: int = 0
    torch_steps: int = 0
    """Steps that were compared with torch's."""

    rewinds: int = 0
    restarts: int = 0
    recoveries: int = 0
    """Sessions that began a generation because relaxed steps might have been lost."""

    worst: dict[str, float] = field(default_factory=dict)
    """The largest error of a step, by the dtype of the masters."""

    def add(self, other: Tally) -> None:
        """Count another run too."""
        for name in (name for name in vars(self) if name != "worst"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for dtype, error in other.worst.items():
            self.worst[dtype] = max(self.worst.get(dtype, 0.0), error)


class Complaints(logging.Handler):
    """What is logged as an error, from wherever: no request makes the service fail."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.heard.append(self.format(record))


class Ground(RuleBasedStateMachine):
    """A service and its model. Rules are in the classes that build on it."""

    store: ClassVar[str]
    """The URL of the store; `{folder}` is the machine's own."""

    tally: ClassVar[Tally]

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Model] = []
        self.created = 0
        self._busy = False
        self._touched: set[str] = set()
        self._read: set[str] = set()
        self._life = ExitStack()
        self._life.enter_context(patch.object(snapshots, "PIECE", _PIECE))
        self._life.enter_context(patch.object(background, "SYNC_AFTER", _SYNC_AFTER))
        self._life.enter_context(patch.object(background, "offload", _slowly))
        self.complaints = Complaints()
        logging.getLogger().addHandler(self.complaints)
        self._life.callback(logging.getLogger().removeHandler, self.complaints)
        self.folder = Path(self._life.enter_context(tempfile.TemporaryDirectory()))
        self._run = ExitStack()
        self.service = self._start()

    def teardown(self) -> None:
        """End the service."""
        self._run.close()
        self._life.close()

    def restart(self) -> None:
        """End the service, and start it on the same store."""
        self._run.close()
        self.service = self._start()
        self.tally.restarts += 1

    def _start(self) -> Service:
        store = self.store.format(folder=self.folder)
        return self._run.enter_context(running(store, snapshot_steps=_SNAPSHOT_STEPS))

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request."""
        self._busy = True
        self.tally.requests += 1
        return self.service.request(method, path, **options)

    def ask(self, model: Model, method: str, address: str = "", **options: Any) -> httpx.Response:
        """Send a request to a session, which is looked at after the rule."""
        self._touched.add(model.id)
        if method != "GET":
            self._read.discard(model.id)
        return self.send(method, f"{model.path}{address}", **options)

    def rest(self) -> None:
        """Wait for the snapshots that are being taken, and for what they trim."""
        sessions: Sessions = self.service.app.state.services.sessions

        async def finish() -> None:
            tasks = sessions._background._tasks.items()
            await asyncio.wait_for(
                asyncio.gather(*(task for key, task in tasks if key[0] == "snapshot")), 60
            )

        self.service._portal.call(finish)

    def new_id(self) -> str:
        """Return an id that no session has had."""
        self.created += 1
        return f"s{self.created}"

    def keep(self, model: Model) -> Model:
        """Note a session that was made."""
        self.models.append(model)
        self._touched.add(model.id)
        self.tally.sessions += 1
        return model

    def read(self, model: Model) -> StateFile:
        """Download a session's state."""
        answer = self.ask(model, "GET", "/state")
        true(answer.status_code == 200, f"{model.id}: no state: {answer.text}")
        self._read.add(model.id)
        return StateFile.read(answer.content)

    def unmoved(self, model: Model) -> StateFile | None:
        """Return the state after a change that leaves the tensors alone."""
        if model.now.file is None:
            return None
        file = self.read(model)
        same_tensors(file.tensors, model.now.file.tensors, f"the tensors of {model.id}")
        equal(file.counters, model.now.file.counters, f"the counters of {model.id}")
        return file

    @invariant()
    def sessions_are_what_they_must_be(self) -> None:
        """Look at the sessions that the rule used, and at others from time to time."""
        self.tally.operations += self._busy
        self._busy = False
        turn, others = divmod(self.tally.operations, _OTHERS)
        other = self.models[turn % len(self.models)] if self.models and not others else None
        for model in self.models:
            if model is other or model.id in self._touched:
                self.look_at(model, fully=model is other)
        self._touched.clear()
        self._read.clear()
        equal(self.complaints.heard, [], "what the service logs as errors")

    def look_at(self, model: Model, *, fully: bool = True) -> None:
        """Compare a session with its model; fully means what was just read, too."""
        answer = self.service.get(model.path)
        shown = answered(answer, 200)
        equal(answer.headers["ETag"], model.etag, f"the ETag of {model.id}")
        self.compare(model, shown, replayed=False)
        if model.now.file is None:
            return
        if fully or model.id not in self._read:
            state = self.service.get(f"{model.path}/state").content
            true(state == model.now.file.raw, f"the state of {model.id} has changed")
        if fully:
            params = self.service.get(f"{model.path}/params")
            same_params(params, model.now, f"the parameters of {model.id}")
            told = {name: params.headers[f"Gradstep-{name}"] for name in ("Step", "Generation")}
            wanted = {"Step": str(model.now.step), "Generation": str(model.generation)}
            equal(told, wanted, f"where the parameters of {model.id} stand")

    def compare(self, model: Model, shown: Mapping[str, Any], *, replayed: bool) -> None:
        """Compare a session's JSON with its model."""
        now = model.now
        wanted = {
            **now.config,
            "id": model.id,
            "step": now.step,
            "accumulated": now.accumulated,
            "epoch": now.epoch,
            "generation": model.generation,
            "seq": model.seq,
            "forked_from": model.forked_from,
            "groups": [
                {"tensors": tensors, "optimizer": group}
                for tensors, group in zip(now.members, now.groups, strict=True)
            ],
            "tensors": _tensors(model),
            "replayed": replayed,
        }
        equal({key: shown[key] for key in wanted}, wanted, model.id)
        rates = now.rates()
        true(same_rates(shown["lr"], rates, now.bases), f"{model.id}: {shown['lr']}, not {rates}")
        same_decays(shown["weight_decay"], now, f"the weight decay of {model.id}")
        durable, oldest = shown["durable_step"], shown["oldest_step"]
        lowest = 0 if model.relaxed else now.step
        true(lowest <= durable <= now.step, f"{model.id}: durable_step is {durable}")
        latest = min(model.horizon, now.step)
        true(model.oldest <= oldest <= latest, f"{model.id}: oldest_step is {oldest}")
        model.oldest = oldest


async def _slowly(size: int, work: Callable[..., Any], *args: Any) -> Any:
    await asyncio.sleep(_PAUSE)
    return await offload(size, work, *args)


def _tensors(model: Model) -> dict[str, dict[str, Any]]:
    if model.now.file is None:
        return {}
    dtype = model.now.dtype
    return {name: {"dtype": dtype, "shape": list(shape)} for name, shape in SHAPES.items()}
