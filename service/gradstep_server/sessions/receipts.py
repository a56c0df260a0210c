"""What a session answers: receipts, views, and pages of history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from pydantic import BaseModel, ConfigDict

from gradstep_server.optimizers import Optimizer
from gradstep_server.schedulers import Followed
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.headers import Origin
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import StepRecord
from gradstep_server.sessions.store import Entry, Header
from gradstep_server.sessions.tensors import Tensor


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Receipt(_Answer):
    """What one step did."""

    step: int
    """The position that the step took."""

    position: int
    """Where the session stands now; beyond `step` when an old step is replayed."""

    replayed: bool
    """Whether the step had been taken before this request."""

    applied: bool
    """Whether the parameters were stepped; false for a skipped non-finite step, and for one
    whose gradients are accumulated only."""

    accumulated: int | None
    """How many steps of the update were added up after this one, all of them where the update
    was made; null where every step is an update."""

    durable_step: int
    """The last step that is known to be synced."""

    lr: list[float]
    """The learning rate of each group in this step, or in the update that it is part of."""

    next_lr: list[float]
    """The learning rate of each group in the next step."""

    momentum: float | None
    """The momentum, or first beta, that the schedule set; null where the optimizer kept its own."""

    weight_decay: list[float] | None
    """The weight decay of each group; null where no schedule moves it."""

    grad_norm: float | None
    """The global L2 norm before clipping, of what was accumulated where an update was made of
    that; null if it is not finite."""

    loss: float | None
    """The loss that the client reported."""

    clipped: bool
    """Whether clipping changed a gradient."""

    frozen: int
    """How many of the gradients were ignored because `freeze` names their tensors."""

    generation: int
    """How often the session was rewound, or may have lost relaxed steps, plus one."""


class EpochReceipt(_Answer):
    """What the end of one epoch did."""

    epoch: int
    """The epoch that ended."""

    step: int
    """How many optimizer steps the session has taken."""

    replayed: bool
    """Whether the epoch had been ended before this request."""

    metric: float | None
    """What the client measured."""

    lr: list[float]
    """The learning rate of each group in the next step."""

    generation: int
    """How often the session was rewound, or may have lost relaxed steps, plus one."""

    seq: int
    """Where the log stands."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters at one position, the bytes a copy of their own."""

    step: int
    generation: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A receipt, and the parameters of its position if they were wanted."""

    receipt: Receipt
    params: Parameters | None
    seq: int
    """Where the log stands."""


@dataclass(frozen=True, slots=True)
class View:
    """A session at one moment, for those who look at it."""

    id: str
    forked_from: Origin | None
    generation: int
    seq: int
    step: int
    durable_step: int
    """The last step that is known to be synced."""

    oldest_step: int
    """The first step that the session can be rewound to."""

    epoch: int
    accumulated: int
    """How many steps were added up since the last update."""

    config: SessionConfig
    groups: list[tuple[list[str], Optimizer]]
    """Each group's tensors and its resolved optimizer, group 0 first."""

    lr: list[float]
    """The learning rate of each group in the next step."""

    momentum: float | None
    """The momentum that the schedule sets for the next step; None if it sets none."""

    weight_decay: list[float] | None
    """The weight decay of each group in the next step; None if no schedule moves it."""

    clock: int
    """The schedule's own step of the next optimizer step."""

    followed: Followed
    """What the schedule keeps of the metrics of epochs, if it follows them."""

    shapes: dict[str, tuple[int, ...]]
    created_at: float
    updated_at: float
    replayed: bool


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Receipts of consecutive steps."""

    receipts: Sequence[Receipt]
    next: int | None
    """What to ask for next; null at the end."""

    groups: int
    """How many groups the session has, also where there are no receipts."""


def history_page(
    state: State, entries: Sequence[Entry], durable_step: int, limit: int
) -> HistoryPage:
    """Return the receipts of at most `limit` of the entries, and whether there are more."""
    shown = [receipt(state, entry, durable_step, replayed=True) for entry in entries[:limit]]
    following = shown[-1].step if len(entries) > limit else None
    return HistoryPage(shown, following, len(state.groups.optimizers))


def receipt(state: State, entry: Entry, durable_step: int, *, replayed: bool) -> Receipt:
    """Return the receipt of a step that the log holds."""
    record = StepRecord.of(entry.record)
    return Receipt(
        step=entry.n,
        position=state.step,
        replayed=replayed,
        applied=record.applied,
        accumulated=record.accumulated,
        durable_step=durable_step,
        lr=record.lr,
        next_lr=record.next_lr,
        momentum=record.momentum,
        weight_decay=record.weight_decay,
        grad_norm=record.grad_norm,
        loss=record.asked.loss,
        clipped=record.clipped,
        frozen=record.frozen,
        generation=state.generation,
    )


def epoch_receipt(state: State, entry: Entry, *, replayed: bool) -> EpochReceipt:
    """Return the receipt of an epoch's end that the log holds."""
    return EpochReceipt(
        epoch=entry.n,
        step=state.step,
        replayed=replayed,
        metric=orjson.loads(entry.record)["asked"]["metric"],
        lr=state.rates(state.clock()),
        generation=state.generation,
        seq=state.seq,
    )


def view(
    header: Header,
    state: State,
    *,
    fork: Origin | None,
    durable_step: int,
    oldest_step: int,
    replayed: bool,
) -> View:
    """Return what there is to see of a session now."""
    members: list[list[str]] = [[] for _ in state.groups.optimizers]
    for name, tensor in state.tensors.items():
        members[tensor.group].append(name)
    return View(
        id=header.id,
        forked_from=fork,
        durable_step=durable_step,
        oldest_step=oldest_step,
        generation=state.generation,
        seq=state.seq,
        step=state.step,
        epoch=state.epoch,
        accumulated=state.accumulated,
        config=state.config,
        groups=list(zip(members, state.groups.optimizers, strict=True)),
        lr=state.rates(state.clock()),
        momentum=state.momentum(),
        weight_decay=state.weight_decays(),
        clock=state.clock(),
        followed=state.followed,
        shapes={name: tensor.shape for name, tensor in state.tensors.items()},
        created_at=header.created_at,
        updated_at=state.updated_at,
        replayed=replayed,
    )
