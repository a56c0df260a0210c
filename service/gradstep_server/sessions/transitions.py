"""How one entry of a log changes a session, live and in replay alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from gradstep_server.optimizers import Compute
from gradstep_server.schedulers import Followed
from gradstep_server.sessions import accumulation, stepping
from gradstep_server.sessions.config import SessionConfig, resolve
from gradstep_server.sessions.digests import content_digest, seal, unpack
from gradstep_server.sessions.entries import CONFIG, EPOCH, INIT, RECOVERY, REWIND, STEP
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry
from gradstep_server.sessions.tensors import Tensors
from gradstep_server.sessions.transfer import fill


def advance(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:
    """Make `state` what it is right after `entry`.

    Args:
        state: the state after the entry before; for a rewind, after entry ``entry.n``.
        entry: what happened.
        tensors: what came with it.
        compute: runs the arithmetic.
    """
    _TRANSITIONS[entry.kind](state, entry, tensors, compute)
    state.seq, state.seal = entry.seq, entry.seal
    state.step = entry.step
    state.updated_at = entry.created_at


def _init(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:  # noqa: ARG001 - all transitions look alike
    fill(state, orjson.loads(entry.record), tensors)


def _step(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:
    record = stepping.StepRecord.of(entry.record)
    stepping.apply(state, record, tensors, compute, seq=entry.seq)


def _epoch(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:  # noqa: ARG001 - all transitions look alike
    state.followed = measured(state, orjson.loads(entry.record)["asked"]["metric"])
    state.epoch = entry.n


def _config(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:  # noqa: ARG001 - all transitions look alike
    facts = orjson.loads(entry.record)
    state.config = SessionConfig.model_validate(facts["config"])
    state.groups = resolve(state.config)
    state.frozen = state.groups.frozen(state.tensors)
    if state.config.per_update == 1:
        accumulation.end(state)
    state.origin = facts["origin"]
    state.decay_origin = facts.get("decay_origin", 0)
    state.followed = Followed(**facts.get("followed", {}))


def _generation(state: State, entry: Entry, tensors: Tensors, compute: Compute) -> None:  # noqa: ARG001 - all transitions look alike
    state.generation = orjson.loads(entry.record)["generation"]


_TRANSITIONS: dict[str, Callable[[State, Entry, Tensors, Compute], None]] = {
    INIT: _init,
    STEP: _step,
    EPOCH: _epoch,
    CONFIG: _config,
    REWIND: _generation,
    RECOVERY: _generation,
}


def measured(state: State, metric: float | None) -> Followed:
    """Return what the schedule keeps once an epoch has ended with `metric`."""
    scheduler = state.config.scheduler
    if scheduler is None or not scheduler.needs_metrics:
        return state.followed
    return scheduler.follow(state.followed, np.array([metric], dtype=np.float64))


def replay(state: State, entry: Entry, body: memoryview, compute: Compute) -> None:
    """Advance by a stored entry, after proving that it is what was written.

    Raises:
        SessionCorrupt: the entry does not follow, or does not match its digests.
    """
    follows = entry.n if entry.kind == REWIND else entry.seq - 1
    if state.seq != follows:
        raise SessionCorrupt(f"entry {entry.seq} of the log does not follow entry {state.seq}")
    tensors = proven_tensors(entry, body)
    advance(state, entry, tensors, compute)


def proven_tensors(entry: Entry, body: memoryview) -> Tensors:
    """Return the tensors of a stored entry that is what was written.

    Raises:
        SessionCorrupt: it does not match its digests.
    """
    if seal(entry) != entry.seal or len(body) != entry.body_size:
        raise SessionCorrupt(f"entry {entry.seq} of the log does not match its seal")
    facts: dict[str, Any] = orjson.loads(entry.record)
    tensors = unpack(facts.get("tensors", []), body)
    if content_digest({"kind": entry.kind, **facts["asked"]}, tensors) != entry.digest:
        raise SessionCorrupt(f"the tensors of entry {entry.seq} do not match their digest")
    return tensors
