"""Sessions on the wire: what creates them, and what shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path
from pydantic import BaseModel, ConfigDict

from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.receipts import View
from gradstep_server.sessions.store import Head, Header
from gradstep_server.web.tensor_bodies import NestedTensors

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

SessionId = Annotated[
    str,
    Path(
        pattern=ID_PATTERN,
        description="The session's id: up to 64 letters, digits and `_.-`.",
        examples=["digits-1"],
    ),
]

CREATE_EXAMPLE: dict[str, Any] = {
    "optimizer": {"type": "AdamW", "lr": 0.001, "weight_decay": 0.01},
    "scheduler": {"type": "CosineAnnealingLR", "T_max": 1000},
    "param_groups": [{"match": ["*.bias"], "weight_decay": 0}],
    "clip": {"type": "norm", "max_norm": 1.0},
    "params": {"layer.weight": [[0.1, -0.2], [0.3, 0.4]], "layer.bias": [0.0, 0.0]},
}


class CreateSession(SessionConfig):
    """What creates a session: its configuration, and small parameters inline."""

    model_config = ConfigDict(json_schema_extra={"examples": [CREATE_EXAMPLE]})

    params: NestedTensors | None = None
    """The initial parameters as nested lists; `PUT …/params` takes large ones."""

    def config(self) -> SessionConfig:
        """Return the configuration alone."""
        fields = {name: getattr(self, name) for name in SessionConfig.model_fields}
        return SessionConfig.model_construct(**fields)


class TensorInfo(BaseModel):
    """One parameter of a session."""

    dtype: str
    shape: list[int]


class Group(BaseModel):
    """A parameter group as it is stepped."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    tensors: list[str]
    """The names of its parameters."""

    optimizer: dict[str, Any]
    """Every hyperparameter in use."""


class ForkedFrom(BaseModel):
    """Where a session that was forked began."""

    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)

    id: str
    """The session that it was forked from."""

    step: int
    """The step of that session right after which it begins."""

    generation: int
    """The generation of that session at the time."""


class SessionAnswer(BaseModel):
    """A session, and where it stands."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str | None
    step: int
    """The position: how many optimizer steps were taken."""

    epoch: int
    """How many epochs were ended."""

    generation: int
    """How often the session was rewound, or may have lost relaxed steps, plus one."""

    seq: int
    """How many entries the log holds."""

    durable_step: int
    """The last step that is known to be synced; below `step` only where
    `durability` is `relaxed`."""

    oldest_step: int
    """The first step that the session can be rewound to or forked at."""

    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    weight_decay_scheduler: dict[str, Any] | None
    schedule_on: str
    param_groups: list[dict[str, Any]]
    """The groups as they were asked for."""

    groups: list[Group]
    """The groups as they are stepped; group 0 holds the tensors that no pattern matches."""

    freeze: list[str]
    """Patterns of the tensors that are not stepped."""

    accumulate: dict[str, Any] | None
    accumulated: int
    """How many steps have been added up towards the next update."""

    clip: dict[str, Any] | None
    on_nonfinite: str
    durability: str
    retain: Literal["none", "all"] | int
    """How many steps back the session can be rewound to for sure."""

    dtype: str
    forked_from: ForkedFrom | None
    """Where it began; null for a session that is no fork."""

    lr: list[float]
    """The learning rate of each group in the next step."""

    momentum: float | None
    """The momentum, or first beta, that the schedule sets for the next step; null where the
    optimizer keeps its own."""

    weight_decay: list[float] | None
    """The weight decay of each group in the next step; null where no schedule moves it."""

    tensors: dict[str, TensorInfo]
    created_at: datetime
    updated_at: datetime
    replayed: bool
    """Whether the request had been carried out before."""


class SessionSummary(BaseModel):
    """A session in a list."""

    id: str
    name: str | None
    step: int
    optimizer: str
    created_at: datetime
    updated_at: datetime


class SessionList(BaseModel):
    """Sessions by id."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    sessions: list[SessionSummary]
    next: str | None
    """What to send as `after` for the sessions behind these; null at the end."""


def answer(view: View) -> SessionAnswer:
    """Return a session as it is shown."""
    config = view.config.model_dump(mode="json")
    dtype = config["dtype"]
    return SessionAnswer.model_validate(
        {
            **config,
            "id": view.id,
            "step": view.step,
            "epoch": view.epoch,
            "accumulated": view.accumulated,
            "generation": view.generation,
            "seq": view.seq,
            "durable_step": view.durable_step,
            "oldest_step": view.oldest_step,
            "forked_from": view.forked_from,
            "groups": [
                {"tensors": tensors, "optimizer": optimizer.model_dump(mode="json")}
                for tensors, optimizer in view.groups
            ],
            "lr": view.lr,
            "momentum": view.momentum,
            "weight_decay": view.weight_decay,
            "tensors": {
                name: {"dtype": dtype, "shape": list(shape)} for name, shape in view.shapes.items()
            },
            "created_at": _moment(view.created_at),
            "updated_at": _moment(view.updated_at),
            "replayed": view.replayed,
        }
    )


def summary(header: Header, head: Head) -> SessionSummary:
    """Return a session as a list shows it."""
    config = orjson.loads(header.config)["config"]
    return SessionSummary(
        id=header.id,
        name=config["name"],
        step=head.step,
        optimizer=config["optimizer"]["type"],
        created_at=_moment(header.created_at),
        updated_at=_moment(head.updated_at),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
