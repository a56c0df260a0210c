"""What the SDK takes and gives, as plain values. Nothing here sends or parses."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
"""A NumPy array of floating point numbers."""

Params: TypeAlias = dict[str, Array]
"""Tensors by name."""

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object as Python reads it."""

Spec: TypeAlias = str | Mapping[str, object]
"""A scheduler or optimizer: ``{"type": "AdamW", "lr": 1e-3}``, or only its name."""

Dtype: TypeAlias = Literal["F64", "F32", "F16", "BF16"]
"""A dtype by its name in safetensors."""


Retain: TypeAlias = Literal["none", "all"] | int
"""How many steps back a session can be rewound to for sure; ``"none"``: as few as possible."""


class TensorLike(Protocol):
    """A NumPy array, a torch tensor, or anything else that converts itself to an array."""

    def __array__(self) -> NDArray[Any]:
        """Return the values as a NumPy array."""
        ...


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


UNSET = Unset.UNSET
"""Stands for an argument that was not given, where None has a meaning of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Learning rates over a window of a schedule."""

    step: NDArray[np.int64]
    """The steps; 0 is the rate of the first optimizer step."""

    position: NDArray[np.float64] | None
    """Where each step begins, in epochs or samples; None where `unit` asked for steps."""

    lr: NDArray[np.float64]
    """The rates: ``(n,)``, or ``(groups, n)`` where there are several base rates."""

    momentum: NDArray[np.float64] | None
    """The momentums (or first betas) that the schedule sets, NaN where the optimizer keeps its
    own; None where it sets none."""

    warnings: tuple[str, ...]
    """What a user should know, such as a window that ends before the peak."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An entry of the catalogue: one scheduler or optimizer."""

    type: str
    """The name that selects it."""

    summary: str
    """One line."""

    description: str
    """What it does and when to use it."""

    formula: str
    """Its rule in LaTeX."""

    torch_name: str
    """The class in torch whose numbers it gives; empty where torch has none."""

    reference: str
    """The function of another library whose numbers it gives, where torch has none."""

    parameters: JsonObject
    """The JSON schema of its parameters."""

    examples: tuple[JsonObject, ...]
    """Parameters that work."""

    curve: str | None
    """The path of a picture of its first example; None for an optimizer."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group as the server resolved it; group 0 takes what no pattern matches."""

    tensors: tuple[str, ...]
    """The names of its tensors."""

    optimizer: JsonObject
    """The optimizer with every hyperparameter that is in force."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A line in the list of sessions."""

    id: str
    name: str | None
    step: int
    optimizer: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ForkedFrom:
    """Where a session that was forked began."""

    id: str
    """The session that it was forked from."""

    step: int
    """The step of that session right after which it begins."""

    generation: int
    """The generation of that session at the time."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server described it at one moment."""

    id: str
    name: str | None
    step: int
    """How many optimizer steps were taken."""

    epoch: int
    """How many epochs were ended."""

    generation: int
    """Raised whenever the session is rewound, or may have lost relaxed steps."""

    seq: int
    """The length of the session's log."""

    durable_step: int
    """The last step that survives a power loss; below `step` only if `durability` is relaxed."""

    oldest_step: int
    """The first step that the session can be rewound to or forked at."""

    optimizer: JsonObject
    scheduler: JsonObject | None
    weight_decay_scheduler: JsonObject | None
    schedule_on: str
    param_groups: tuple[JsonObject, ...]
    """The groups as they were asked for."""

    groups: tuple[Group, ...]
    """The groups as they are, group 0 first."""

    freeze: tuple[str, ...]
    """Patterns of the tensors that are not stepped."""

    accumulate: JsonObject | None
    accumulated: int
    """How many steps have been added up towards the next update."""

    clip: JsonObject | None
    on_nonfinite: str
    durability: str
    retain: str | int
    """How many steps back the session can be rewound to for sure: ``none``, ``all``, a number."""

    dtype: str
    forked_from: ForkedFrom | None
    """Where it began; None for a session that is no fork."""

    lr: tuple[float, ...]
    """The rate that the next step will use, per group."""

    momentum: float | None
    """The momentum, or first beta, that the schedule sets for the next step; None for none."""

    weight_decay: tuple[float, ...] | None
    """The weight decay of the next step, per group; None if no schedule moves it."""

    tensors: Mapping[str, TensorInfo]
    created_at: datetime
    updated_at: datetime
    replayed: bool
    """Whether the request that this answers had been carried out before."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a step."""

    step: int
    """The position that the step took."""

    position: int
    """Where the session stands now; beyond `step` only for a replayed one."""

    replayed: bool
    """Whether the step had been taken before, by an earlier attempt."""

    applied: bool
    """False for a step that was skipped because a gradient was not finite, and for one whose
    gradients are accumulated only."""

    accumulated: int | None
    """How many steps of the update were added up after this one; None without accumulation."""

    durable_step: int
    """The last step that survives a power loss."""

    lr: tuple[float, ...]
    """The rate that this step used, per group."""

    next_lr: tuple[float, ...]
    """The rate that the next step will use, per group."""

    momentum: float | None
    """The momentum, or first beta, that the schedule set; None if it set none."""

    weight_decay: tuple[float, ...] | None
    """The weight decay of this step, per group; None if no schedule moves it."""

    grad_norm: float | None
    """The norm of all gradients before clipping; None if it is not finite."""

    loss: float | None
    """The loss that was sent along."""

    clipped: bool
    """Whether clipping changed the gradients."""

    frozen: int
    """How many of the gradients were ignored because their tensors are frozen."""

    generation: int


@dataclass(frozen=True, slots=True)
class EpochReceipt:
    """What became of the end of an epoch."""

    epoch: int
    step: int
    replayed: bool
    metric: float | None
    lr: tuple[float, ...]
    """The rate that the next step will use, per group."""

    generation: int


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What was recorded of the steps, one element per step; null is NaN."""

    step: NDArray[np.int64]
    lr: NDArray[np.float64]
    """The rates that were used, ``(groups, n)``."""

    grad_norm: NDArray[np.float64]
    loss: NDArray[np.float64]
    applied: NDArray[np.bool_]
    clipped: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that a session knows, to be kept by the user or moved to another session."""

    tensors: Params
    """Parameters as ``params/<name>`` and slots as ``<slot>/<name>``, such as ``exp_avg/w``."""

    metadata: dict[str, str]
    """What stands beside the tensors, as the server wrote it."""

    @property
    def step(self) -> int:
        """How many optimizer steps were taken."""
        return int(self.metadata["step"])

    @property
    def epoch(self) -> int:
        """How many epochs were ended."""
        return int(self.metadata["epoch"])

    @property
    def counters(self) -> dict[str, int]:
        """How often each tensor was stepped; an absent gradient is no step."""
        counters: dict[str, int] = json.loads(self.metadata["counters"])
        return counters

    @property
    def config(self) -> JsonObject:
        """The session's configuration."""
        config: JsonObject = json.loads(self.metadata["config"])
        return config

    @property
    def params(self) -> Params:
        """The parameters by name, in the precision in which they are stepped."""
        return self.slot("params")

    def slot(self, slot: str) -> Params:
        """Return the tensors of one slot by parameter name.

        Args:
            slot: ``exp_avg``, ``momentum_buffer``, …; empty where there is no such slot.
        """
        prefix = f"{slot}/"
        return {
            key.removeprefix(prefix): array
            for key, array in self.tensors.items()
            if key.startswith(prefix)
        }


@dataclass(frozen=True, slots=True)
class Fault:
    """One wrong field or tensor."""

    pointer: str
    """A JSON pointer into what was sent, such as ``/grads/w/0``."""

    detail: str
    """What is wrong with it and what would be right."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What the server said of a request that it refused (RFC 9457)."""

    status: int
    """The HTTP status."""

    detail: str
    """What happened and what to do, in a sentence or two."""

    code: str | None = None
    """The stable name of the problem; None where no gradstep server spoke."""

    pointer: str | None = None
    """The first wrong field or tensor."""

    errors: tuple[Fault, ...] = ()
    """Every wrong field or tensor that was found."""

    request_id: str | None = None
    """The name of the request in the server's log."""

    retry_after: float | None = None
    """The seconds after which the server asks to be tried again."""

    extra: Mapping[str, object] = field(default_factory=dict)
    """Further members of the problem, such as ``expected``."""
