"""A session's initial content: parameters alone, or a whole state from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from gradstep_server.errors import Fault
from gradstep_server.kinds import MAX_COUNT, Count, NonNegative
from gradstep_server.optimizers import Scalars
from gradstep_server.schedulers import NOTHING, Followed
from gradstep_server.sessions import accumulation
from gradstep_server.sessions.config import faults_of
from gradstep_server.sessions.digests import canonical, index
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.state import PARAMS, State
from gradstep_server.sessions.tensors import Tensor, Tensors

_FORMAT = "gradstep-state"
_VERSION = "1"


@dataclass(frozen=True, slots=True)
class StateFile:
    """Everything that a session's tensors are, and where it stands."""

    tensors: Tensors
    """By `<slot>/<name>`, the masters as `params/<name>`."""

    step: int = 0
    epoch: int = 0
    origin: int = 0
    decay_origin: int = 0
    followed: Followed = NOTHING
    updates: int | None = None
    """How many of the steps were updates; all of them where it is left out."""

    accumulated: int = 0
    """How many steps the sums of gradients are of."""

    counters: dict[str, int] = field(default_factory=dict)
    """How often each tensor was stepped; 0 where it is left out."""

    scalars: Mapping[str, Scalars] = field(default_factory=dict)
    """What optimizers keep of each tensor beside its slots; nothing where it is left out."""

    @classmethod
    def of_params(cls, params: Tensors) -> StateFile:
        """Return the content of a session that starts with these parameters."""
        return cls({f"{PARAMS}/{name}": tensor for name, tensor in params.items()})

    @classmethod
    def of_state(cls, state: State) -> StateFile:
        """Return what a session holds, the tensors as views."""
        facts, tensors = state.dump()
        return cls(
            tensors,
            state.step,
            state.epoch,
            state.origin,
            state.decay_origin,
            state.followed,
            state.updates,
            state.accumulated,
            facts["counters"],
            facts["scalars"],
        )

    def asked(self) -> dict[str, Any]:
        """Return the facts beside the tensors, for the digest."""
        counters = {name: steps for name, steps in self.counters.items() if steps}
        return {
            "step": self.step,
            "epoch": self.epoch,
            "origin": self.origin,
            "counters": counters,
            **_seldom(self),
        }

    def record(self) -> bytes:
        """Return the record of the entry that fills a session with this."""
        return canonical({"asked": self.asked(), "tensors": index(self.tensors)})


def _seldom(place: StateFile | State) -> dict[str, Any]:
    """Return the facts that few sessions have, without those that this one has not."""
    facts: dict[str, Any] = {}
    if place.decay_origin:
        facts["decay_origin"] = place.decay_origin
    if place.updates not in {None, place.step}:
        facts["updates"] = place.updates
    if place.accumulated:
        facts["accumulated"] = place.accumulated
    if place.followed != NOTHING:
        facts["followed"] = asdict(place.followed)
    if place.scalars:
        facts["scalars"] = place.scalars
    return facts


def fill(state: State, facts: dict[str, Any], tensors: Tensors) -> None:
    """Give an empty session what a `StateFile.record` and its tensors say."""
    asked = facts["asked"]
    others, sums = accumulation.parted(tensors)
    state.fill(others, asked["counters"], asked.get("scalars", {}))
    accumulation.fill(state, sums)
    state.updates = asked.get("updates", asked["step"])
    state.accumulated = asked.get("accumulated", 0)
    state.epoch, state.origin = asked["epoch"], asked["origin"]
    state.decay_origin = asked.get("decay_origin", 0)
    state.followed = Followed(**asked.get("followed", {}))


def exported_size(state: State) -> int:
    """Return the bytes of all tensors that `exported` returns."""
    return sum(
        tensor.values.nbytes * (1 + tensor.summed) + sum(s.nbytes for s in tensor.slots.values())
        for tensor in state.tensors.values()
    )


def exported(state: State, room: memoryview | None = None) -> tuple[Tensors, dict[str, str]]:
    """Return a session's whole state as tensors, copied into `room`, and metadata.

    What the next step will use (`lr`, `momentum`, `weight_decay`) stands there for
    readers that cannot compute a schedule; it follows from the rest and is not read back.
    """
    facts, views = state.dump()
    rest = memoryview(bytearray(exported_size(state))) if room is None else room
    tensors = {}
    for key, view in views.items():
        copied, rest = rest[: len(view.data)], rest[len(view.data) :]
        copied[:] = view.data
        tensors[key] = Tensor(view.dtype, view.shape, copied)
    metadata = {"format": _FORMAT, "version": _VERSION}
    told = {key: facts[key] for key in ("step", "epoch", "origin", "counters", "config")}
    next_step = {
        "lr": state.rates(state.clock()),
        "momentum": state.momentum(),
        "weight_decay": state.weight_decays(),
    }
    for key, value in {**told, **next_step, **_seldom(state)}.items():
        metadata[key] = orjson.dumps(value).decode()
    return tensors, metadata


_Position = Annotated[Count, Field(le=MAX_COUNT // 2)]
"""A count that leaves room for as many steps again."""


_FirstFault = Field(fail_fast=True)
"""Of thousands that are wrong, to describe each would take a second."""


class _Metadata(BaseModel):
    """What `exported` writes, read back; the configuration is the session's own."""

    model_config = ConfigDict(extra="ignore")

    step: Json[_Position]
    epoch: Json[_Position]
    origin: Json[_Position]
    counters: Json[Annotated[dict[str, _Position], _FirstFault]]
    decay_origin: Json[_Position] = 0
    updates: Json[_Position] | None = None
    accumulated: Json[_Position] = 0
    followed: Json[Followed] = NOTHING
    scalars: Json[
        Annotated[dict[str, Annotated[dict[str, NonNegative], _FirstFault]], _FirstFault]
    ] = {}


def imported(tensors: Tensors, metadata: dict[str, str]) -> StateFile:
    """Return what a file that `exported` made holds.

    Raises:
        InvalidTensors: it is no such file.
    """
    if (metadata.get("format"), metadata.get("version")) != (_FORMAT, _VERSION):
        detail = (
            f"must say format {_FORMAT!r} and version {_VERSION!r}; GET …/state makes such files"
        )
        raise InvalidTensors(Fault("/__metadata__", detail))
    try:
        facts = _Metadata.model_validate(metadata)
    except ValidationError as error:
        raise InvalidTensors(*faults_of(error, "__metadata__")) from None
    if facts.origin > max(facts.step, facts.epoch):
        raise InvalidTensors(Fault("/__metadata__/origin", "lies behind the file's position"))
    if facts.decay_origin > max(facts.step, facts.epoch):
        raise InvalidTensors(Fault("/__metadata__/decay_origin", "lies behind the file's position"))
    if facts.updates is not None and facts.updates + facts.accumulated > facts.step:
        raise InvalidTensors(Fault("/__metadata__/updates", "are more than the file's steps"))
    return StateFile(
        tensors,
        facts.step,
        facts.epoch,
        facts.origin,
        facts.decay_origin,
        facts.followed,
        facts.updates,
        facts.accumulated,
        facts.counters,
        facts.scalars,
    )
