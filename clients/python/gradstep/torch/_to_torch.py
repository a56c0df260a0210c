"""A session's state as torch's: by name there, by position here."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from gradstep._types import JsonObject, State
from gradstep.torch._classes import (
    HOW_IT_RUNS,
    STEP,
    WHOLE_IN_FLOAT32,
    Hyperparameters,
    in_torch,
    kept,
    scratch,
)
from gradstep.torch._saved import Model, named
from gradstep.torch._schedulers import Place, build, put


@dataclass(frozen=True, slots=True, eq=False)
class TorchState:
    """A session's state as torch loads it."""

    optimizer: dict[str, Any]
    """For ``optimizer.load_state_dict``."""

    scheduler: dict[str, Any] | None
    """For ``scheduler.load_state_dict``, before which the scheduler is built and the optimizer
    loaded; None where the session has no schedule."""

    params: dict[str, torch.Tensor]
    """For ``model.load_state_dict(…, strict=False)``: a model also has buffers."""

    notes: tuple[str, ...]
    """What the session did that the training loop now has to do."""


class Layout(NamedTuple):
    """One of torch's groups: the session's group that it is, and its parameters in order."""

    group: int
    names: list[str]


def to_torch(
    state: State,
    model: Model,
    optimizer: torch.optim.Optimizer | None,
    *,
    with_scheduler: bool,
) -> TorchState:
    """Return a state as torch loads it; `gradstep.torch.to_state_dict` documents it."""
    config, following = state.config, _next_step(state)
    kind = config["optimizer"]["type"]
    if optimizer is not None and type(optimizer).__name__ != kind:
        msg = f"the session's optimizer is {kind}, not {type(optimizer).__name__}"
        raise ValueError(msg)
    parameters = named(model)
    _check_parameters(state, parameters)
    groups = _groups(config)
    layouts = _layouts(state, parameters, config["param_groups"], optimizer)
    made = scratch(kind, [in_torch(kind, groups[layout.group]) for layout in layouts])
    lrs = [following["lr"][layout.group] for layout in layouts]
    scheduler = None
    if with_scheduler:
        scheduler = _scheduler(state, made, lrs)
    for i, (layout, group) in enumerate(zip(layouts, made.param_groups, strict=True)):
        group["lr"] = lrs[i]
        _move(group, following, layout.group)
        if optimizer is not None:
            theirs = optimizer.param_groups[i]
            group |= {key: theirs[key] for key in HOW_IT_RUNS | {"param_names"} if key in theirs}
    return TorchState(
        optimizer=_state_dict(state, kind, made.param_groups, layouts),
        scheduler=scheduler,
        params={name: torch.from_numpy(array) for name, array in state.params.items()},
        notes=tuple(_notes(config, with_scheduler=with_scheduler)),
    )


def _next_step(state: State) -> JsonObject:
    """Return what the next step will use: its rates, and what else schedules move."""
    try:
        told = {key: state.metadata[key] for key in ("lr", "momentum", "weight_decay")}
    except KeyError:
        raise ValueError(
            "the state does not say at which rate it goes on: it is from a server older than this"
        ) from None
    return {key: json.loads(value) for key, value in told.items()}


def _check_parameters(state: State, parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise unless the model's parameters are the session's."""
    for name, array in state.params.items():
        if name not in parameters:
            msg = f"the model has no parameter {name!r}, which the session has"
            raise ValueError(msg)
        parameter = parameters[name]
        if tuple(parameter.shape) != array.shape:
            msg = f"{name!r} has shape {tuple(parameter.shape)}, and {array.shape} in the session"
            raise ValueError(msg)
        dtype = str(parameter.dtype).removeprefix("torch.")
        if dtype != array.dtype.name:
            msg = (
                f"{name!r} is {dtype}, and {array.dtype.name} in the session's state: torch would "
                f"round the state. Convert the model first, model.to(torch.{array.dtype.name})."
            )
            raise ValueError(msg)


def _groups(config: JsonObject) -> list[JsonObject]:
    """Return the optimizer of each group, group 0 first."""
    first = config["optimizer"]
    others = [
        {name: value for name, value in group.items() if name != "match"}
        for group in config["param_groups"]
    ]
    return [first, *({**first, **overrides} for overrides in others)]


def _layouts(
    state: State,
    parameters: Mapping[str, torch.Tensor],
    patterns: Sequence[JsonObject],
    optimizer: torch.optim.Optimizer | None,
) -> list[Layout]:
    """Return torch's groups: those of an optimizer at hand, or the session's that have tensors."""
    group_of = {name: _group(name, patterns) for name in state.params}
    if optimizer is None:
        for name, parameter in parameters.items():
            if name not in group_of and parameter.requires_grad:
                msg = f"the session has no parameter {name!r}, which the model has"
                raise ValueError(msg)
        ordered = [name for name in parameters if name in group_of]
        layouts = [
            Layout(i, [name for name in ordered if group_of[name] == i])
            for i in range(len(patterns) + 1)
        ]
        return [layout for layout in layouts if layout.names] or layouts[:1]
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    found = []
    for i, group in enumerate(optimizer.param_groups):
        names = [name_of.get(id(parameter), "") for parameter in group["params"]]
        if strange := [name for name in names if name not in group_of]:
            what = repr(strange[0]) if strange[0] else "one that the model has not"
            msg = f"group {i} of the optimizer has a parameter that the session has not: {what}"
            raise ValueError(msg)
        joined = sorted({group_of[name] for name in names})
        if len(joined) > 1:
            msg = f"group {i} of the optimizer joins the groups {joined} of the session"
            raise ValueError(msg)
        found.append(Layout(joined[0] if joined else 0, names))
    if lacking := sorted(group_of.keys() - {name for layout in found for name in layout.names}):
        msg = f"the optimizer does not have {lacking[0]!r}, which the session has"
        raise ValueError(msg)
    return found


def _group(name: str, patterns: Sequence[JsonObject]) -> int:
    """Return the group of a tensor: the first that matches, otherwise 0."""
    for i, group in enumerate(patterns, start=1):
        if any(_matches(pattern, name) for pattern in group["match"]):
            return i
    return 0


def _matches(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern in which `*` and `?` are wild and all else is literal."""
    wild = {"*": ".*", "?": "."}
    text = "".join(wild.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(text, name, re.DOTALL) is not None


def _scheduler(
    state: State, optimizer: torch.optim.Optimizer, lrs: Sequence[float]
) -> dict[str, Any] | None:
    """Return the state of torch's scheduler, and leave in the groups what it keeps there."""
    config = state.config
    if config["weight_decay_scheduler"] is not None:
        raise ValueError(
            "torch has no schedule of the weight decay. With with_scheduler=False the optimizer's "
            "state goes alone, at the present rate and weight decay."
        )
    spec = config["scheduler"]
    if spec is None:
        return None
    bases = [group["lr"] for group in optimizer.param_groups]
    moved = state.epoch if config["schedule_on"] == "epoch" else state.step
    t = moved - json.loads(state.metadata["origin"])
    followed = json.loads(state.metadata.get("followed", "{}"))
    scheduler = build(spec, optimizer)
    put(scheduler, Place(t, bases, lrs, followed))
    return copy.deepcopy(scheduler.state_dict())


def _move(group: dict[str, Any], following: JsonObject, index: int) -> None:
    """Give a group the momentum and the weight decay of the next step, where schedules set them."""
    momentum, decays = following["momentum"], following["weight_decay"]
    if momentum is not None and "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    elif momentum is not None:
        group["momentum"] = momentum
    if decays is not None:
        group["weight_decay"] = decays[index]


def _state_dict(
    state: State,
    kind: str,
    groups: Sequence[Hyperparameters],
    layouts: Sequence[Layout],
) -> dict[str, Any]:
    """Return the state of torch's optimizer."""
    entries: dict[int, dict[str, torch.Tensor]] = {}
    saved: list[dict[str, Any]] = []
    counters, scalars = state.counters, json.loads(state.metadata.get("scalars", "{}"))
    slots = _slots(state)
    for layout, group in zip(layouts, groups, strict=True):
        plain = {name: value for name, value in group.items() if name != "params"}
        first = sum(len(before["params"]) for before in saved)
        saved.append({**plain, "params": list(range(first, first + len(layout.names)))})
        options = {key: value for key, value in plain.items() if key not in HOW_IT_RUNS}
        counts = STEP in kept(kind, _constructed(kind, options)).scalars
        for index, name in enumerate(layout.names, start=first):
            own = slots.get(name, {})
            numbers = scalars.get(name, {})
            if not (own or counters.get(name)):
                continue
            entry = {STEP: _counter(counters.get(name, 0))} if counts else {}
            entry |= {key: torch.tensor(n, dtype=torch.float64) for key, n in numbers.items()}
            if entry | own:
                entries[index] = entry | own
    return {"state": entries, "param_groups": saved}


def _constructed(kind: str, group: Hyperparameters) -> Hyperparameters:
    """Return of a group what the class takes, not what a scheduler left there."""
    defaults = scratch(kind, [{}]).defaults
    return {name: value for name, value in group.items() if name in defaults}


def _slots(state: State) -> dict[str, dict[str, torch.Tensor]]:
    """Return what the optimizer keeps, by parameter and torch's name for it."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, array in state.tensors.items():
        slot, _, name = key.partition("/")
        if slot != "params":
            found.setdefault(name, {})[slot] = torch.from_numpy(array)
    return found


def _counter(steps: int) -> torch.Tensor:
    # torch goes on in whatever dtype it loads; a float32 would stay at 2²⁴.
    wide = steps >= WHOLE_IN_FLOAT32 or torch.get_default_dtype() == torch.float64
    return torch.tensor(float(steps), dtype=torch.float64 if wide else torch.float32)


def _notes(config: JsonObject, *, with_scheduler: bool) -> Iterable[str]:
    """Yield what a training loop has to do from now on."""
    clip = config["clip"]
    if clip is not None:
        function = "clip_grad_norm_" if clip["type"] == "norm" else "clip_grad_value_"
        yield f"gradients were clipped, {clip}: torch.nn.utils.{function} before optimizer.step()"
    if config["on_nonfinite"] == "skip":
        yield "steps whose gradients were not finite were skipped; torch takes them"
    if config["scheduler"] is not None and with_scheduler:
        when = "each epoch" if config["schedule_on"] == "epoch" else "each optimizer.step()"
        yield f"the schedule moved with {when}: scheduler.step() after it"
    if config["scheduler"] is not None and not with_scheduler:
        yield f"the schedule {config['scheduler']['type']} was left behind; the rate stays"
    if config["dtype"] in {"F16", "BF16"}:
        yield f"parameters were {config['dtype']} with float32 masters; these are the masters"
