"""Moves between torch and gradstep, written once for both clients."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from anyio.from_thread import BlockingPortal
from sdk_clients import Awaited, _awaited
from torch_optimizers import numbers_of

import gradstep
import gradstep.torch
from gradstep.torch import TorchState

Arrays = Mapping[str, Any]


class Moved(NamedTuple):
    """As `gradstep.torch.Moved`, the session usable like a blocking one."""

    session: gradstep.Session
    hyperparameters: tuple[dict[str, gradstep.torch.Hyperparameter], ...]


class Mover:
    """The two functions, awaited where the client is asynchronous."""

    def __init__(self, portal: BlockingPortal, client: gradstep.Client) -> None:
        self._portal = portal
        self.client = client

    def to_torch(self, session: gradstep.Session, model: Any, **options: Any) -> TorchState:
        found = self._finished(gradstep.torch.to_state_dict(_target(session), model, **options))
        assert isinstance(found, TorchState)
        return found

    def from_torch(self, optimizer: Any, model: Any, **options: Any) -> Moved:
        made = gradstep.torch.from_state_dict(_target(self.client), optimizer, model, **options)
        found = self._finished(made)
        session = found.session
        if isinstance(session, gradstep.AsyncSession):
            session = cast("gradstep.Session", Awaited(self._portal, session))
        return Moved(session, found.hyperparameters)

    def _finished(self, result: Any) -> Any:
        return self._portal.call(_awaited, result) if inspect.iscoroutine(result) else result


def _target(twin: Any) -> Any:
    return getattr(twin, "_target", twin)


def model_of(params: Arrays) -> list[tuple[str, torch.nn.Parameter]]:
    """Return parameters by name, copies of arrays."""
    return [(name, torch.nn.Parameter(torch.tensor(array))) for name, array in params.items()]


def optimizer_of(kind: str, model: Any, *others: str, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer of torch's over a model, with a second group for some names."""
    groups = [
        {"params": [parameter for name, parameter in model if (name in others) == second]}
        for second in ((False, True) if others else (False,))
    ]
    made: torch.optim.Optimizer = getattr(torch.optim, kind)(groups, **options)
    return made


def step(optimizer: torch.optim.Optimizer, model: Any, grads: Arrays) -> None:
    """Step torch's optimizer; a parameter without a gradient is left out."""
    for name, parameter in model:
        parameter.grad = torch.tensor(grads[name]) if name in grads else None
    with numbers_of([parameter for _, parameter in model]):
        optimizer.step()


def values(model: Any) -> dict[str, Any]:
    """Return the parameters of a model as arrays, copied."""
    return {name: parameter.detach().numpy().copy() for name, parameter in model}


def worst(ours: Arrays, theirs: Arrays) -> float:
    """Return the largest difference, in shares of the tensor's largest parameter."""
    return max(
        float(np.max(np.abs(ours[name] - theirs[name]))) / float(np.max(np.abs(theirs[name])))
        for name in theirs
    )
