"""Moving between torch and gradstep: a session's state as torch's, and torch's as a session's.

>>> import gradstep.torch
>>> moved = gradstep.torch.to_state_dict(session, model)
>>> optimizer.load_state_dict(moved.optimizer)

This is the only module of the SDK that imports torch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, overload

try:
    import torch  # noqa: F401 - to say what to install before anything else asks for it
except ImportError as error:
    raise ImportError("gradstep.torch needs PyTorch: pip install torch") from error

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gradstep._async_client import AsyncClient
from gradstep._async_session import AsyncSession
from gradstep._client import Client
from gradstep._session import Session
from gradstep._types import Kind, Retain, State
from gradstep.torch._from_torch import Arrival, Hyperparameter, Source, Wanted, from_torch
from gradstep.torch._saved import Model
from gradstep.torch._to_torch import TorchState, to_torch

__all__ = [
    "Hyperparameter",
    "Model",
    "Moved",
    "Source",
    "TorchState",
    "from_state_dict",
    "to_state_dict",
]

S = TypeVar("S", Session, AsyncSession)


class SessionOptions(TypedDict, total=False):
    """What a new session may have beside what torch says; as for ``client.sessions.create``."""

    id: str
    name: str
    clip: Mapping[str, object]
    on_nonfinite: Literal["reject", "skip"]
    durability: Literal["step", "relaxed"]
    retain: Retain


@dataclass(frozen=True, slots=True)
class Moved(Generic[S]):
    """A session that goes on where torch stood."""

    session: S
    """The session, ready to step."""

    hyperparameters: tuple[dict[str, Hyperparameter], ...]
    """Every hyperparameter that is in force, per group, with where it came from."""


@overload
def to_state_dict(
    session: Session,
    model: Model,
    *,
    optimizer: Optimizer | None = None,
    with_scheduler: bool = True,
    step: int | None = None,
) -> TorchState: ...


@overload
def to_state_dict(
    session: AsyncSession,
    model: Model,
    *,
    optimizer: Optimizer | None = None,
    with_scheduler: bool = True,
    step: int | None = None,
) -> Awaitable[TorchState]: ...


def to_state_dict(
    session: Session | AsyncSession,
    model: Model,
    *,
    optimizer: Optimizer | None = None,
    with_scheduler: bool = True,
    step: int | None = None,
) -> TorchState | Awaitable[TorchState]:
    """Return a session's whole state in the form that torch loads. Nothing is changed anywhere.

    Build the optimizer and the scheduler as for a new run, then load:

    >>> moved = gradstep.torch.to_state_dict(session, model)
    >>> model.load_state_dict(moved.params, strict=False)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    >>> optimizer.load_state_dict(moved.optimizer)
    >>> scheduler.load_state_dict(moved.scheduler)

    Args:
        session: The session; of an AsyncSession the result is awaited.
        model: A module whose parameters have the session's names, or names and
            parameters in the order in which the optimizer has them.
        optimizer: The optimizer that is to load the state, where its groups or their
            order are not the session's. Without it there is a group for each of the
            session's that has tensors, in the session's order, parameters in the model's.
        with_scheduler: Whether the schedule goes, too; False leaves the rate as it is.
        step: The state right after this step; by default the present one.

    Raises:
        ValueError: Names, shapes, dtypes or groups differ, or torch has no such
            optimizer, scheduler or hyperparameter.
        ApiError: The server refused, as for `Session.state`.
    """

    def turned(state: State) -> TorchState:
        return to_torch(state, model, optimizer, with_scheduler=with_scheduler)

    if isinstance(session, Session):
        return turned(session.state(step))

    async def awaited(session: AsyncSession) -> TorchState:
        return turned(await session.state(step))

    return awaited(session)


@overload
def from_state_dict(
    client: Client,
    optimizer: Optimizer | Mapping[str, Any],
    model: Model,
    *,
    scheduler: LRScheduler | Mapping[str, Any] | None = None,
    kind: str | None = None,
    hyperparameters: Mapping[str, object] | None = None,
    prefer: Literal["state_dict", "caller"] | None = None,
    last_epoch: int | None = None,
    schedule_on: Literal["step", "epoch"] | None = None,
    step: int | None = None,
    **options: Unpack[SessionOptions],
) -> Moved[Session]: ...


@overload
def from_state_dict(
    client: AsyncClient,
    optimizer: Optimizer | Mapping[str, Any],
    model: Model,
    *,
    scheduler: LRScheduler | Mapping[str, Any] | None = None,
    kind: str | None = None,
    hyperparameters: Mapping[str, object] | None = None,
    prefer: Literal["state_dict", "caller"] | None = None,
    last_epoch: int | None = None,
    schedule_on: Literal["step", "epoch"] | None = None,
    step: int | None = None,
    **options: Unpack[SessionOptions],
) -> Awaitable[Moved[AsyncSession]]: ...


def from_state_dict(
    client: Client | AsyncClient,
    optimizer: Optimizer | Mapping[str, Any],
    model: Model,
    *,
    scheduler: LRScheduler | Mapping[str, Any] | None = None,
    kind: str | None = None,
    hyperparameters: Mapping[str, object] | None = None,
    prefer: Literal["state_dict", "caller"] | None = None,
    last_epoch: int | None = None,
    schedule_on: Literal["step", "epoch"] | None = None,
    step: int | None = None,
    **options: Unpack[SessionOptions],
) -> Moved[Session] | Awaitable[Moved[AsyncSession]]:
    """Create a session that goes on exactly where torch stands.

    >>> moved = gradstep.torch.from_state_dict(client, optimizer, model, scheduler=scheduler)
    >>> moved.hyperparameters[0]["lr"]
    Hyperparameter(value=0.001, source='state_dict')

    Everything is checked before the session is created: names, shapes, counters, and that the
    schedule has at its t the rate that the optimizer has.

    Args:
        client: Where; with an AsyncClient the result is awaited.
        optimizer: The optimizer, or its state_dict together with `kind`.
        model: A module, or names and parameters. For a state_dict without names, in the
            order in which the optimizer was given them.
        scheduler: The scheduler, if the schedule is to go on. One that is code, such as
            Hugging Face's, is given as a session has it, with `last_epoch`.
        kind: The optimizer's class, where only a state_dict is at hand.
        hyperparameters: What you hold for right; ``lr`` is the rate that the schedule
            starts from. Where torch says otherwise, that is an error.
        prefer: Which holds where the two disagree.
        last_epoch: How often a scheduler that is only described was stepped.
        schedule_on: What moves the schedule on. To be said where the scheduler was not
            stepped as often as the optimizer, or torch does not count.
        step: How many steps were taken; by default as many as torch has counted.
        options: ``id``, ``name``, ``clip``, ``on_nonfinite``, ``durability``, ``retain``, as for
            ``client.sessions.create``.

    Raises:
        ValueError: Something does not fit or contradicts something else; the message
            names it. Nothing was created.
        ApiError: The server refused, as for ``client.sessions.create``.
    """
    wanted = Wanted(kind, hyperparameters or {}, prefer, last_epoch, schedule_on, step)

    def arrive(kinds: list[Kind]) -> Arrival:
        known = {each.type: frozenset(each.parameters["properties"]) - {"type"} for each in kinds}
        return from_torch(optimizer, model, scheduler, wanted, known)

    if isinstance(client, Client):
        arrival = arrive(client.optimizers())
        if arrival.curve is not None:
            arrival.check_rates(client.schedules.curve(**arrival.curve))
        session = client.sessions.create(**arrival.config, **options)
        groups = session.load_state(arrival.state).groups
        return Moved(session, arrival.origins(groups))

    async def awaited(client: AsyncClient) -> Moved[AsyncSession]:
        arrival = arrive(await client.optimizers())
        if arrival.curve is not None:
            arrival.check_rates(await client.schedules.curve(**arrival.curve))
        session = await client.sessions.create(**arrival.config, **options)
        groups = (await session.load_state(arrival.state)).groups
        return Moved(session, arrival.origins(groups))

    return awaited(client)
