"""What an optimizer of torch holds, by name: torch's own order is by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from gradstep.torch._classes import STEP, WHOLE_IN_FLOAT32, Hyperparameters, Kept

Model: TypeAlias = torch.nn.Module | Iterable[tuple[str, torch.Tensor]]
"""A module, or its parameters by name as ``named_parameters()`` yields them."""


class Saved(NamedTuple):
    """One of torch's groups: hyperparameters, and names with what is kept for each."""

    hyperparameters: Hyperparameters
    entries: dict[str, dict[str, Any]]


def named(model: Model) -> dict[str, torch.Tensor]:
    """Return a model's parameters by name, in torch's order."""
    pairs = model.named_parameters() if isinstance(model, torch.nn.Module) else model
    return dict(pairs)


def read(
    optimizer: torch.optim.Optimizer | Mapping[str, Any], parameters: Mapping[str, torch.Tensor]
) -> list[Saved]:
    """Return torch's groups with everything by name."""
    if isinstance(optimizer, torch.optim.Optimizer):
        name_of = {id(parameter): name for name, parameter in parameters.items()}
        return [
            Saved(
                {key: value for key, value in group.items() if key != "params"},
                {
                    _name(name_of, i, parameter): dict(optimizer.state.get(parameter, {}))
                    for parameter in group["params"]
                },
            )
            for i, group in enumerate(optimizer.param_groups)
        ]
    names = _names(optimizer["param_groups"], parameters)
    state, found = optimizer["state"], []
    if strange := [key for key in state if not isinstance(key, int)]:
        msg = f"state has the key {strange[0]!r}: torch's are integers, which JSON turns into text"
        raise ValueError(msg)
    for group in optimizer["param_groups"]:
        plain = {key: value for key, value in group.items() if key != "params"}
        found.append(Saved(plain, {names[i]: dict(state.get(i, {})) for i in group["params"]}))
    return found


def _name(name_of: Mapping[int, str], group: int, parameter: torch.Tensor) -> str:
    if id(parameter) not in name_of:
        msg = (
            f"group {group} of the optimizer has a parameter of shape {tuple(parameter.shape)} "
            "that the model has not"
        )
        raise ValueError(msg)
    return name_of[id(parameter)]


def _names(
    groups: Sequence[Mapping[str, Any]], parameters: Mapping[str, torch.Tensor]
) -> dict[int, str]:
    """Return the name behind each of a state_dict's positions."""
    positions = [position for group in groups for position in group["params"]]
    if all("param_names" in group for group in groups):
        names = [name for group in groups for name in group["param_names"]]
        if strange := [name for name in names if name not in parameters]:
            msg = f"the state_dict is of a parameter {strange[0]!r}, which the model has not"
            raise ValueError(msg)
    else:
        names = list(parameters)
        if len(groups) > 1:
            raise ValueError(
                "a state_dict of several groups knows positions only, and a model's order is not "
                "that of its groups: give the optimizer itself, or build it from "
                "named_parameters(), which keeps the names in its state_dict"
            )
    if len(names) != len(positions):
        msg = f"the state_dict is of {len(positions)} parameters, and the model has {len(names)}"
        raise ValueError(msg)
    return dict(zip(positions, names, strict=True))


def counted(saved: Sequence[Saved], forms: Sequence[Kept]) -> dict[str, int] | None:
    """Return how often each parameter was stepped; None where torch does not count."""
    if not all(STEP in form.scalars for form in forms):
        return None
    return {
        name: _count(name, entry[STEP]) if STEP in entry else 0
        for group in saved
        for name, entry in group.entries.items()
    }


def _count(name: str, value: torch.Tensor | float) -> int:
    steps = float(value)
    if not steps.is_integer() or steps < 0:
        msg = f"the step of {name!r} is {steps}, which is no count"
        raise ValueError(msg)
    dtype = getattr(value, "dtype", torch.float64)
    if dtype != torch.float64 and steps >= WHOLE_IN_FLOAT32:
        msg = (
            f"the step of {name!r} is {int(steps)} in {dtype}, where torch's counter stops: "
            "the true number is lost. If you know it, set it, "
            "optimizer.state[parameter]['step'] = torch.tensor(n, dtype=torch.float64)."
        )
        raise ValueError(msg)
    return int(steps)
