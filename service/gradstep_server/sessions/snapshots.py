"""The form of a snapshot: a whole state as JSON and bytes, sealed."""

from __future__ import annotations

from typing import Any

import orjson

from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.digests import (
    Index,
    body,
    canonical,
    index,
    snapshot_seal,
    unpack,
)
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.state import PARAMS, State
from gradstep_server.sessions.store import Body, Snapshot
from gradstep_server.sessions.tensors import elements


def snapshot_of(state: State) -> tuple[Snapshot, Body]:
    """Return a snapshot and its body, views of the arrays of `state`."""
    facts, tensors = state.dump()
    record = canonical({**facts, "tensors": index(tensors)})
    parts = body(tensors)
    seal = snapshot_seal(state.seq, record, parts)
    return Snapshot(state.seq, record, seal, sum(map(len, parts))), parts


def proven(snapshot: Snapshot, body: memoryview) -> dict[str, Any]:
    """Return the facts of a snapshot that is what was written.

    Raises:
        SessionCorrupt: it does not match its seal.
    """
    if snapshot_seal(snapshot.seq, snapshot.record, [body]) != snapshot.seal:
        raise SessionCorrupt(f"the snapshot at entry {snapshot.seq} is damaged")
    facts: dict[str, Any] = orjson.loads(snapshot.record)
    return facts


def empty_state(seq: int, facts: dict[str, Any]) -> State:
    """Return the state of a snapshot's facts, its tensors still to be filled in."""
    state = State.new(SessionConfig.model_validate(facts["config"]), facts["updated_at"])
    state.seq, state.step, state.epoch = seq, facts["step"], facts["epoch"]
    state.generation, state.origin = facts["generation"], facts["origin"]
    return state


def fill_in(state: State, facts: dict[str, Any], body: memoryview) -> None:
    """Give an empty state the tensors of its snapshot."""
    state.fill(unpack(facts["tensors"], body), facts["counters"])


def param_sizes(tensors: Index) -> dict[str, int]:
    """Return the elements of each parameter that an index of `<slot>/<name>` lists."""
    start = f"{PARAMS}/"
    return {
        key.removeprefix(start): elements(shape)
        for key, _, shape in tensors
        if key.startswith(start)
    }
