"""The form of a snapshot: a state as JSON and bytes, sealed.

A snapshot is taken while steps go on, piece by piece, so its pieces may be of
different entries: each is recorded with the last entry that it includes, and
replay leaves out what a piece includes already. The record holds everything
else as it was after the entry of the first piece, the *base*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
from blake3 import blake3

from gradstep_server.optimizers import FloatArray, Scalars, Shape
from gradstep_server.schedulers import Followed
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.digests import Index, canonical, snapshot_seal, unpack
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.state import GRAD_SUM, PARAMS, State
from gradstep_server.sessions.store import Snapshot
from gradstep_server.sessions.tensor_state import TensorState

PIECE = 1 << 20
"""The most elements of a tensor that a step waits for, together with their slots; of a
tensor that is only stepped as a whole, all."""


class Piece(NamedTuple):
    """Consecutive elements of a tensor, its slots included."""

    name: str
    start: int
    stop: int


def pieces_of(state: State) -> Iterator[list[Piece]]:
    """Yield the pieces of a state, small ones together, about `PIECE` elements at a time."""
    batch: list[Piece] = []
    room = PIECE
    for name, tensor in sorted(state.tensors.items()):
        most = max(tensor.size, 1) if state.optimizer(tensor).whole else PIECE
        for start in range(0, max(tensor.size, 1), most):
            piece = Piece(name, start, min(start + most, tensor.size))
            batch.append(piece)
            room -= piece.stop - piece.start
            if room <= 0:
                yield batch
                batch, room = [], PIECE
    if batch:
        yield batch


@dataclass
class Capture:
    """A snapshot in the making."""

    base: int
    facts: dict[str, Any]
    """What `State.facts` said at the base."""

    slots: dict[str, list[str]]
    """The slots of each tensor at the base, `PARAMS` first."""

    seal: bytes
    """The seal of the entry at the base, by which a log knows its own snapshots."""

    seq: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, Scalars] = field(default_factory=dict)
    summed: dict[str, bool] = field(default_factory=dict)
    pieces: list[tuple[str, int, int, int]] = field(default_factory=list)
    size: int = 0
    digest: blake3 = field(default_factory=blake3)

    @classmethod
    def begin(cls, state: State) -> Capture:
        """Return a capture that begins with the state as it is."""
        slots = {name: _slots(tensor) for name, tensor in state.tensors.items()}
        return cls(state.seq, state.facts(), slots, state.seal)

    def copy(self, state: State, batch: Sequence[Piece]) -> list[memoryview] | None:
        """Return copies of these pieces, or None if the capture cannot go on.

        It cannot where a tensor has got slots since the base: then what came
        before them is recorded in another form.
        """
        self.seq = state.seq
        parts = []
        for name, start, stop in batch:
            tensor = state.tensors[name]
            if _slots(tensor) != self.slots[name]:
                return None
            self.counters.setdefault(name, tensor.steps)
            self.scalars.setdefault(name, tensor.scalars)
            self.pieces.append((name, start, stop, state.seq))
            self.summed.setdefault(name, tensor.summed)
            parts += [memoryview(part.tobytes()) for part in _parts(tensor, start, stop)]
        return parts

    def add(self, part: memoryview) -> None:
        """Count a part that was written."""
        self.digest.update(part)
        self.size += len(part)

    def sealed(self, state: State) -> Snapshot:
        """Return the snapshot of everything that was added."""
        facts = {
            **self.facts,
            "seal": self.seal.hex(),
            "counters": self.counters,
            "scalars": {name: dict(kept) for name, kept in self.scalars.items() if kept},
            "summed": [name for name, summed in self.summed.items() if summed],
            "shapes": {name: list(tensor.shape) for name, tensor in state.tensors.items()},
            "slots": self.slots,
            "pieces": self.pieces,
            "body": self.digest.hexdigest(),
        }
        record = canonical(facts)
        seal = snapshot_seal(self.seq, record, [])
        return Snapshot(self.seq, self.base, record, seal, self.size)


def proven(snapshot: Snapshot, body: memoryview) -> dict[str, Any]:
    """Return the facts of a snapshot that is what was written.

    Raises:
        SessionCorrupt: it does not match its seal.
    """
    damaged = SessionCorrupt(f"the snapshot at entry {snapshot.seq} is damaged")
    try:
        facts: Any = orjson.loads(snapshot.record)
    except orjson.JSONDecodeError:
        raise damaged from None
    if not isinstance(facts, dict):
        raise damaged
    sealed = "body" in facts  # in format 1 the seal covers the body itself
    if snapshot_seal(snapshot.seq, snapshot.record, [] if sealed else [body]) != snapshot.seal:
        raise damaged
    if sealed and blake3(body, max_threads=blake3.AUTO).hexdigest() != facts["body"]:
        raise damaged
    return facts


def empty_state(snapshot: Snapshot, facts: dict[str, Any]) -> State:
    """Return the state at a snapshot's base, its tensors still to be filled in."""
    state = State.new(SessionConfig.model_validate(facts["config"]), facts["updated_at"])
    state.seq, state.step, state.epoch = snapshot.base, facts["step"], facts["epoch"]
    state.generation, state.origin = facts["generation"], facts["origin"]
    state.decay_origin = facts.get("decay_origin", 0)
    state.updates = facts.get("updates", state.step)
    state.accumulated = facts.get("accumulated", 0)
    state.followed = Followed(**facts.get("followed", {}))
    return state


def shapes_in(facts: dict[str, Any]) -> dict[str, Shape]:
    """Return the shape of each parameter of a snapshot."""
    if "shapes" not in facts:
        return param_shapes(facts["tensors"])
    return {name: tuple(shape) for name, shape in facts["shapes"].items()}


def fill_in(state: State, facts: dict[str, Any], body: memoryview) -> None:
    """Give an empty state the tensors of its snapshot."""
    if "pieces" not in facts:
        state.fill(unpack(facts["tensors"], body), facts["counters"])
        return
    state.lay_out(facts["shapes"])
    for name, tensor in state.tensors.items():
        tensor.steps = facts["counters"][name]
        tensor.scalars = facts.get("scalars", {}).get(name, {})
        tensor.summed = name in facts.get("summed", ())
        for slot in facts["slots"][name][1:]:
            if slot == GRAD_SUM:
                state.add_sum(tensor)
            else:
                state.add_slot(tensor, slot)
    storage = state.master.storage
    begin = 0
    for name, start, stop, seq in facts["pieces"]:
        tensor = state.tensors[name]
        for part in _parts(tensor, start, stop):
            end = begin + part.nbytes
            part[:] = np.frombuffer(body[begin:end], storage)
            begin = end
        tensor.ahead.append((stop, seq))


def param_shapes(tensors: Index) -> dict[str, Shape]:
    """Return the shape of each parameter that an index of `<slot>/<name>` lists."""
    start = f"{PARAMS}/"
    return {
        key.removeprefix(start): tuple(shape) for key, _, shape in tensors if key.startswith(start)
    }


def _parts(tensor: TensorState, start: int, stop: int) -> list[FloatArray]:
    """Return these elements of a tensor and of its slots, as views.

    All elements of a tensor are all of its slots, whatever their sizes.
    """
    arrays = [tensor.values, *tensor.slots.values()]
    if tensor.grad_sum is not None:
        arrays.append(tensor.grad_sum)
    if stop - start == tensor.size:
        return arrays
    return [array[start:stop] for array in arrays]


def _slots(tensor: TensorState) -> list[str]:
    """Return what the arrays of `_parts` are called."""
    return [PARAMS, *tensor.slots, *([] if tensor.grad_sum is None else [GRAD_SUM])]
