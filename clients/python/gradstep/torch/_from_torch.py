"""torch's state as that of a new session: everything by name, every origin told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradstep._arrays import DTYPE_OF_NAME
from gradstep._types import Curve, Dtype, Group, JsonObject, State
from gradstep.torch import _schedulers
from gradstep.torch._classes import (
    FIXED_IN_TORCH,
    HOW_IT_RUNS,
    STEP,
    Hyperparameters,
    Kept,
    in_json,
    in_torch,
    kept,
    scratch,
)
from gradstep.torch._saved import Model, Saved, counted, named, read

Source: TypeAlias = Literal["state_dict", "caller", "default"]
"""Where a hyperparameter came from; ``default`` is the server's."""

MAX_PATTERNS = 256
"""How many patterns a session's groups may have together."""


class Hyperparameter(NamedTuple):
    """A hyperparameter of the new session, and where it came from."""

    value: Any
    source: Source


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the caller says beside torch's objects, checked against them."""

    kind: str | None
    hyperparameters: Mapping[str, Any]
    prefer: Literal["state_dict", "caller"] | None
    last_epoch: int | None
    schedule_on: Literal["step", "epoch"] | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A session to be created, complete."""

    config: dict[str, Any]
    """For ``client.sessions.create``, what the caller chose beside."""

    state: State
    """For ``session.load_state``."""

    sources: list[dict[str, Source]]
    """By group, where each hyperparameter that was sent came from."""

    lrs: list[float]
    """torch's rates for the next step, per group."""

    bases: list[float]
    """The rates from which the schedule starts, per group."""

    t: int
    """Where the schedule stands."""

    @property
    def curve(self) -> dict[str, Any] | None:
        """What to ask of ``client.schedules.curve``; None where no rate follows from t alone."""
        spec = self.config["scheduler"]
        if spec is None or spec["type"] == "ReduceLROnPlateau":
            return None
        return {"scheduler": spec, "base_lr": self.bases, "steps": 1, "start": self.t}

    def check_rates(self, curve: Curve) -> None:
        """Raise if the schedule's rates are not those that torch would use.

        Args:
            curve: The answer to `curve`.

        Raises:
            ValueError: Naming both rates.
        """
        rates = map(float, curve.lr[:, 0])
        for i, (ours, theirs) in enumerate(zip(rates, self.lrs, strict=True)):
            if abs(ours - theirs) > 1e-6 * abs(theirs) + 1e-9 * self.bases[i]:
                msg = (
                    f"group {i} has lr {theirs!r} in torch, and its schedule gives {ours!r} at "
                    f"t = {self.t}: someone set the rate by hand, or this is another schedule. "
                    "Make them agree, or leave the scheduler out."
                )
                raise ValueError(msg)

    def origins(self, groups: Sequence[Group]) -> tuple[dict[str, Hyperparameter], ...]:
        """Return every hyperparameter that is in force, per group, and where it came from."""
        return tuple(
            {
                name: Hyperparameter(value, sent.get(name, "default"))
                for name, value in group.optimizer.items()
                if name != "type"
            }
            for group, sent in zip(groups, self.sources, strict=True)
        )


def from_torch(
    optimizer: torch.optim.Optimizer | Mapping[str, Any],
    model: Model,
    scheduler: LRScheduler | Mapping[str, Any] | None,
    wanted: Wanted,
    known: Mapping[str, frozenset[str]],
) -> Arrival:
    """Return the session that goes on where torch stands; `from_state_dict` documents it.

    Args:
        optimizer: As there.
        model: As there.
        scheduler: As there.
        wanted: The rest of what is said there.
        known: The hyperparameters of each optimizer that the server has.
    """
    kind = _kind(optimizer, wanted.kind, known)
    parameters = named(model)
    saved = read(optimizer, parameters)
    own = [_own(kind, group.hyperparameters, known[kind]) for group in saved]
    lrs = [float(group.hyperparameters["lr"]) for group in saved]
    bases, spec, t = lrs, None, 0
    if scheduler is not None:
        spec, bases, t = _schedule(scheduler, saved, wanted.last_epoch)
    for group, base in zip(own, bases, strict=True):
        group["lr"] = base
    sources = _settle(own, wanted)
    bases = [group["lr"] for group in own]
    if isinstance(scheduler, LRScheduler) and spec is not None:
        _check_schedule(scheduler, spec, kind, own, _schedulers.Place(t, bases, lrs))
    forms = [kept(kind, in_torch(kind, group)) for group in own]
    counters = counted(saved, forms)
    schedule_on = _schedule_on(scheduler, spec, t, counters, wanted)
    place = _place(schedule_on, t if spec is not None else 0, counters, wanted.step)
    followed = _schedulers.followed(scheduler) if isinstance(scheduler, LRScheduler) else {}
    return Arrival(
        config={
            "optimizer": {"type": kind, **own[0]},
            "param_groups": _param_groups(own, saved),
            "scheduler": spec,
            "schedule_on": schedule_on,
            "dtype": _dtype(saved, parameters),
        },
        state=_state(saved, parameters, forms, counters, place, followed),
        sources=sources,
        lrs=lrs,
        bases=bases,
        t=t,
    )


def _kind(
    optimizer: torch.optim.Optimizer | Mapping[str, Any],
    said: str | None,
    known: Mapping[str, frozenset[str]],
) -> str:
    """Return the optimizer's type."""
    found = type(optimizer).__name__ if isinstance(optimizer, torch.optim.Optimizer) else said
    if found is None:
        raise ValueError('a state_dict does not say whose it is: give kind, such as kind="AdamW"')
    if said not in {None, found}:
        msg = f"the optimizer is {found}, not {said}"
        raise ValueError(msg)
    if found not in known:
        msg = f"the server has no optimizer {found}; it has {', '.join(known)}"
        raise ValueError(msg)
    return found


def _own(kind: str, group: Hyperparameters, known: frozenset[str]) -> Hyperparameters:
    """Return the hyperparameters that a session takes.

    Raises:
        ValueError: torch has one that the session would not honour.
    """
    in_class, fixed = scratch(kind, [{}]).defaults, FIXED_IN_TORCH.get(kind, {})
    for name, value in group.items():
        if name in fixed and value != fixed[name]:
            msg = f"{name} is {value!r} in torch's {kind}, and {fixed[name]!r} in gradstep's"
            raise ValueError(msg)
        if name in in_class and name not in known | HOW_IT_RUNS | fixed.keys():
            msg = f"gradstep's {kind} has no {name}, which is {value!r} in torch"
            raise ValueError(msg)
    return {name: in_json(value) for name, value in group.items() if name in known}


def _settle(own: Sequence[Hyperparameters], wanted: Wanted) -> list[dict[str, Source]]:
    """Give each group what the caller says beside, and return where everything is from.

    Raises:
        ValueError: Both say something, and not the same.
    """
    sources: list[dict[str, Source]] = []
    disagreements = []
    for i, group in enumerate(own):
        origin: dict[str, Source] = dict.fromkeys(group, "state_dict")
        for name, said in wanted.hyperparameters.items():
            value = in_json(said)
            if name not in group or (wanted.prefer == "caller" and group[name] != value):
                group[name], origin[name] = value, "caller"
            elif group[name] != value and wanted.prefer is None:
                disagreements.append(
                    f"{name} of group {i}: {group[name]!r} in torch, not {value!r}"
                )
        sources.append(origin)
    if disagreements:
        msg = (
            f"{'; '.join(disagreements)}. "
            'Say which holds, prefer="state_dict" or prefer="caller", or leave yours out.'
        )
        raise ValueError(msg)
    return sources


def _schedule(
    scheduler: LRScheduler | Mapping[str, Any], saved: Sequence[Saved], last_epoch: int | None
) -> tuple[JsonObject, list[float], int]:
    """Return a schedule as a session has it, the rates it starts from, and where it stands."""
    groups = [group.hyperparameters for group in saved]
    if isinstance(scheduler, LRScheduler):
        if last_epoch is not None:
            raise ValueError("last_epoch is the scheduler's own; leave it out")
        spec, t = _schedulers.described(scheduler), _schedulers.position(scheduler)
        return spec, _schedulers.bases(scheduler, groups), t
    if last_epoch is None:
        raise ValueError(
            "a schedule that is only described does not say where it is: give last_epoch"
        )
    if scheduler.get("type") == "ReduceLROnPlateau":
        raise ValueError("what ReduceLROnPlateau has measured is in the scheduler: give that")
    return (
        dict(scheduler),
        [float(g["initial_lr" if "initial_lr" in g else "lr"]) for g in groups],
        last_epoch,
    )


def _check_schedule(
    scheduler: LRScheduler,
    spec: JsonObject,
    kind: str,
    own: Sequence[Hyperparameters],
    place: _schedulers.Place,
) -> None:
    """Raise unless the schedule as it was read makes the scheduler that it was read from."""
    again = _schedulers.build(spec, scratch(kind, [in_torch(kind, group) for group in own]))
    followed = _schedulers.followed(scheduler)
    _schedulers.put(again, _schedulers.Place(place.t, place.bases, place.lrs, followed))
    if found := _schedulers.difference(again, scheduler):
        msg = f"the scheduler does not stand where stepping from 0 leads: {found}"
        raise ValueError(msg)


def _schedule_on(
    scheduler: LRScheduler | Mapping[str, Any] | None,
    spec: JsonObject | None,
    t: int,
    counters: Mapping[str, int] | None,
    wanted: Wanted,
) -> Literal["step", "epoch"]:
    """Return what moves the schedule on.

    Raises:
        ValueError: It is not said, and nothing tells it.
    """
    if wanted.schedule_on is not None:
        return wanted.schedule_on
    if isinstance(scheduler, ReduceLROnPlateau):
        return "epoch"
    stepped = wanted.step if counters is None else max(counters.values(), default=0)
    if spec is None or t == stepped or (t == 0 and stepped is None):
        return "step"
    taken = "an unknown number of times" if stepped is None else f"{stepped} times"
    msg = (
        f"the scheduler was stepped {t} times and the optimizer {taken}: say what moves "
        'the schedule, schedule_on="step" or schedule_on="epoch"'
    )
    raise ValueError(msg)


def _place(
    schedule_on: str, t: int, counters: Mapping[str, int] | None, said: int | None
) -> dict[str, int]:
    """Return where the session stands: its step, its epoch, and where its schedule began."""
    most = max(counters.values(), default=0) if counters is not None else 0
    if schedule_on == "epoch":
        return {"step": most if said is None else said, "epoch": t, "origin": 0}
    step = max(most, t) if said is None else said
    if step < max(most, t):
        msg = f"step {step} is before what was taken: {max(most, t)}"
        raise ValueError(msg)
    return {"step": step, "epoch": 0, "origin": step - t}


def _param_groups(own: Sequence[Hyperparameters], saved: Sequence[Saved]) -> list[JsonObject]:
    """Return the groups behind group 0, with what differs from it."""
    names = [list(group.entries) for group in saved]
    exact = sum(map(len, names[1:])) <= MAX_PATTERNS
    found: list[JsonObject] = []
    for i, group in enumerate(own[1:], start=1):
        others = [name for j, group_ in enumerate(names) if j != i for name in group_]
        match = names[i] if exact else list(dict.fromkeys(_pattern(n, others) for n in names[i]))
        differing = {name: value for name, value in group.items() if value != own[0].get(name)}
        found.append({"match": match, **differing})
    for name in (name for group in names for name in group):
        if len(own) > 1 and {"*", "?"} & set(name):
            msg = f"the name {name!r} cannot be told in a pattern, where * and ? are wild"
            raise ValueError(msg)
    return found


def _pattern(name: str, others: Sequence[str]) -> str:
    """Return a pattern with any number in place of those in the name, if it fits no other name."""
    numbered = re.split(r"\d+", name)
    wild = re.compile(".*".join(map(re.escape, numbered)), re.DOTALL)
    return name if any(map(wild.fullmatch, others)) else "*".join(numbered)


def _state(
    saved: Sequence[Saved],
    parameters: Mapping[str, torch.Tensor],
    forms: Sequence[Kept],
    counters: Mapping[str, int] | None,
    place: Mapping[str, int],
    followed: Mapping[str, Any],
) -> State:
    """Return torch's tensors, and all that stands beside them, as a session's state."""
    tensors: dict[str, Any] = {}
    scalars: dict[str, dict[str, float]] = {}
    counted: dict[str, int] = dict(counters or {})
    for group, form in zip(saved, forms, strict=True):
        for name, entry in group.entries.items():
            tensors[f"params/{name}"] = parameters[name]
            for key, value in entry.items():
                if key == STEP or value is None:
                    continue
                if key in form.scalars:
                    scalars.setdefault(name, {})[key] = float(value)
                    continue
                _check_shape(name, key, value, parameters[name], form)
                tensors[f"{key}/{name}"] = value
            if counters is None:
                # torch keeps no count; what has been stepped was so at every step.
                stepped = any(value is not None for value in entry.values())
                counted[name] = place["step"] if stepped or not form.likenesses else 0
    facts: dict[str, Any] = {**place, "counters": counted}
    if scalars:
        facts["scalars"] = scalars
    if followed:
        facts["followed"] = followed
    metadata = {"format": "gradstep-state", "version": "1"}
    metadata |= {key: json.dumps(value) for key, value in facts.items()}
    return State(tensors, metadata)


def _dtype(saved: Sequence[Saved], parameters: Mapping[str, torch.Tensor]) -> Dtype:
    """Return the dtype of all parameters.

    Raises:
        ValueError: They are of several, or of one that no session has.
    """
    names = [name for group in saved for name in group.entries]
    found = sorted({str(parameters[name].dtype).removeprefix("torch.") for name in names})
    if len(found) != 1 or found[0] not in DTYPE_OF_NAME:
        has = ", ".join(DTYPE_OF_NAME)
        msg = f"the parameters are {', '.join(found)}; a session has one of {has}"
        raise ValueError(msg)
    return DTYPE_OF_NAME[found[0]]


def _check_shape(
    name: str, slot: str, value: torch.Tensor, parameter: torch.Tensor, form: Kept
) -> None:
    """Raise if what is kept for a parameter is of another, since torch goes by position."""
    if slot in form.likenesses and value.shape != parameter.shape:
        msg = (
            f"{slot} of {name!r} has shape {tuple(value.shape)}, and the parameter "
            f"{tuple(parameter.shape)}: torch's state goes by position, and this is another's"
        )
        raise ValueError(msg)
