"""What torch's optimizer classes take and keep, asked of torch itself.

Nothing here lists optimizers: hyperparameters are read from a class's parameter
groups, and what it keeps for a parameter from one step of a parameter of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Hyperparameters: TypeAlias = dict[str, Any]
"""An optimizer's, by torch's names; ``type`` is none of them."""

HOW_IT_RUNS = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""What torch's groups hold that changes how a step runs, not what it is."""

FIXED_IN_TORCH: Mapping[str, Mapping[str, object]] = {"AdamW": {"decoupled_weight_decay": True}}
"""By kind, what torch's groups hold and gradstep's class is by definition."""

FIXED_IN_GRADSTEP: Mapping[str, object] = {"momentum_style": "torch", "maximize": False}
"""What a class of torch's may not know, with the value for which gradstep does what it does."""

STEP = "step"
"""What torch calls the counter of a parameter's steps."""


WHOLE_IN_FLOAT32 = 2**24
"""Where a float32, torch's usual counter, stops: adding 1 leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a class keeps for a parameter, by torch's names."""

    scalars: frozenset[str]
    """Single numbers, the counter among them."""

    likenesses: frozenset[str]
    """Tensors of the parameter's shape."""


def optimizer_class(kind: str) -> type[torch.optim.Optimizer]:
    """Return torch's class of this name.

    Raises:
        ValueError: There is none.
    """
    found = getattr(torch.optim, kind, None)
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found
    msg = f"torch {torch.__version__} has no optimizer {kind}: its state cannot go there"
    raise ValueError(msg)


def scratch(kind: str, groups: Sequence[Hyperparameters]) -> torch.optim.Optimizer:
    """Return an optimizer of torch's with these groups, each over a parameter of its own.

    What a group leaves out has the class's default.

    Raises:
        ValueError: torch has no such class, or the class has no such hyperparameter.
    """
    # Two dimensions, since Muon refuses others.
    over = [{**group, "params": [torch.zeros(2, 2, requires_grad=True)]} for group in groups]
    optimizer: torch.optim.Optimizer = optimizer_class(kind)(over)  # type: ignore[call-arg]  # every class defaults its rate
    for name in {name for group in groups for name in group} - optimizer.defaults.keys():
        msg = f"torch's {kind} has no {name}: its state cannot go there"
        raise ValueError(msg)
    # A scheduler is to be built on it that did step, and warns where its optimizer did not.
    optimizer._opt_called = True  # type: ignore[attr-defined]  # noqa: SLF001 - where torch looks
    return optimizer


def kept(kind: str, group: Hyperparameters) -> Kept:
    """Return what torch's class keeps for a parameter once it was stepped.

    Raises:
        ValueError: As for `scratch`.
    """
    optimizer = scratch(kind, [group])
    [parameter] = optimizer.param_groups[0]["params"]
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    entries = {
        name: value.shape if isinstance(value, torch.Tensor) else torch.Size()
        for name, value in optimizer.state[parameter].items()
        if value is not None
    }
    return Kept(
        frozenset(name for name, shape in entries.items() if not shape),
        frozenset(name for name, shape in entries.items() if shape == parameter.shape),
    )


def in_torch(kind: str, hyperparameters: Mapping[str, Any]) -> Hyperparameters:
    """Return a session's hyperparameters as torch writes them.

    Raises:
        ValueError: One of them makes the session do what torch cannot.
    """
    found: Hyperparameters = dict(FIXED_IN_TORCH.get(kind, {}))
    known = inspect.signature(optimizer_class(kind)).parameters
    for name, value in hyperparameters.items():
        if name in FIXED_IN_GRADSTEP and name not in known:
            if value != FIXED_IN_GRADSTEP[name]:
                msg = f"{name} {value!r} is not known to torch: the state cannot go there"
                raise ValueError(msg)
        elif name != "type":
            found[name] = _torch_value(value)
    return found


def _torch_value(value: object) -> object:
    if isinstance(value, list | tuple):
        # JSON has one number type; torch refuses betas that are not all floats.
        return tuple(float(item) if isinstance(item, int) else item for item in value)
    return value


def in_json(value: object) -> object:
    """Return a hyperparameter of torch's as JSON has it."""
    if isinstance(value, torch.Tensor):
        return value.item()
    return [in_json(item) for item in value] if isinstance(value, list | tuple) else value
