"""One optimizer step: what it will do (`plan`), and doing it (`apply`).

`plan` changes nothing. It checks the gradients and computes every number that
comes out of a reduction or of libm; `apply` needs only those numbers, the
gradients and elementwise arithmetic, so that a replayed step is bit-identical
to the live one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Tag

from gradstep_server.errors import Fault, InvalidRequest, pointer
from gradstep_server.kinds import NUMBER_OR_LIST, NonNegative, Real
from gradstep_server.optimizers import Clipping, Compute, FloatArray, Optimizer
from gradstep_server.optimizers.clipping import clipping, first_unusable, tensor_norm
from gradstep_server.sessions.digests import Index, index
from gradstep_server.sessions.errors import InvalidTensors, NonFiniteGradient, ParamsMissing
from gradstep_server.sessions.state import State, TensorState
from gradstep_server.sessions.tensors import DType, Tensors

Key = tuple[int, int, bool]
"""What tensors share coefficients: the group, the counter, and whether slots are new."""

Gradients = Mapping[str, FloatArray]


class Coefficients(BaseModel):
    """A rule's coefficients for the tensors of one group with one counter."""

    model_config = ConfigDict(frozen=True)

    group: int
    steps: int
    fresh: bool
    values: list[float]


Rates = Annotated[
    Annotated[NonNegative, Tag("number")] | Annotated[list[NonNegative], Tag("list")],
    NUMBER_OR_LIST,
]
"""One rate, or one for each group; an error names the shape that was sent."""


class Asked(BaseModel):
    """What a client says of a step beside the gradients."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    loss: Real | None = None
    """What the client reports, for the history."""

    lr: Rates | None = None
    """The client's own rate, or one for each group, instead of the schedule's."""

    def rates(self, groups: int) -> list[float] | None:
        """Return the client's rates, one for each group.

        Raises:
            InvalidRequest: there are more or fewer rates than groups.
        """
        if not isinstance(self.lr, list):
            return None if self.lr is None else [self.lr] * groups
        if len(self.lr) != groups:
            detail = f"has {len(self.lr)} rates for {groups} groups, group 0 included"
            raise InvalidRequest(Fault("/lr", detail))
        return self.lr


class StepRecord(BaseModel):
    """A step as the log keeps it, beside the gradients themselves."""

    model_config = ConfigDict(frozen=True)

    asked: Asked
    tensors: Index
    lr: list[float]
    next_lr: list[float]
    momentum: float | None = None
    """What the schedule set for this step; None where the optimizer kept its own."""

    weight_decay: list[float] | None = None
    """What the schedule set for each group; None where there is none."""

    applied: bool
    grad_norm: float | None
    clipped: bool
    scale: float
    bound: float | None
    coefficients: list[Coefficients]


def check(state: State, tensors: Tensors) -> None:
    """Raise unless the gradients fit the session by name, shape and dtype."""
    if not state.tensors:
        raise ParamsMissing("set the initial parameters first, with PUT …/params")
    if not tensors:
        raise InvalidTensors(Fault("/grads", "must hold at least one tensor"))
    faults = [fault for name in tensors if (fault := _misfit(state, tensors, name))]
    if faults:
        raise InvalidTensors(*faults)


def _misfit(state: State, tensors: Tensors, name: str) -> Fault | None:
    at, tensor = pointer("grads", name), tensors[name]
    if name not in state.tensors:
        known = ", ".join(list(state.tensors)[:5])
        return Fault(at, f"the session has no tensor {name[:100]!r}; it has {known}")
    if tensor.shape != (shape := state.tensors[name].shape):
        return Fault(at, f"the shape is {list(tensor.shape)}, the session's is {list(shape)}")
    if not tensor.dtype.widens_to(state.master):
        return Fault(at, f"the dtype {tensor.dtype} is wider than the session's {state.master}")
    return None


def plan(state: State, tensors: Tensors, asked: Asked, compute: Compute) -> StepRecord:
    """Return what the next step will do.

    Args:
        state: the session before the step; `check` has passed.
        tensors: the gradients.
        asked: what came with them; its rates are one per group.
        compute: runs the reductions.

    Raises:
        NonFiniteGradient: a gradient is unusable and the session rejects those.
        InvalidRequest: a rate is too large for the dtype.
    """
    gradients = widened(state, tensors)
    norms = {name: tensor_norm(gradient, compute) for name, gradient in gradients.items()}
    norm = math.hypot(*norms.values())
    applied = math.isfinite(norm)
    action = clipping(state.config.clip, norm, gradients.values()) if applied else None
    fault = _unusable(state, gradients, norms, action)
    if not applied and fault is None:
        fault = Fault("/grads", "the norm of the gradients exceeds the largest float64")
    if fault and state.config.on_nonfinite == "reject":
        raise NonFiniteGradient(fault)
    if fault or action is None:
        applied, action = False, Clipping(1.0, math.inf, clipped=False)
    rates = asked.rates(len(state.groups.optimizers)) or state.rates(state.clock())
    ahead = int(state.config.schedule_on == "step")
    state.weight_decays(ahead)  # what the next step cannot have, this one must not lead to
    momentum, decays = state.momentum(), state.weight_decays()
    used = moved(state, momentum, decays)
    return StepRecord(
        asked=asked,
        tensors=index(tensors),
        lr=rates,
        next_lr=state.rates(state.clock() + ahead),
        momentum=momentum,
        weight_decay=decays,
        applied=applied,
        grad_norm=norm if math.isfinite(norm) else None,
        clipped=action.clipped,
        scale=action.scale,
        bound=action.bound if math.isfinite(action.bound) else None,
        coefficients=_coefficients(state, gradients, used, rates, asked) if applied else [],
    )


def apply(
    state: State, record: StepRecord, tensors: Tensors, compute: Compute, *, seq: int
) -> None:
    """Do what the record of entry `seq` says to the tensors that have a gradient, in place."""
    optimizers = moved(state, record.momentum, record.weight_decay)
    shared = {(c.group, c.steps, c.fresh): c.values for c in record.coefficients}
    bound = math.inf if record.bound is None else record.bound
    for name, gradient in widened(state, tensors).items():
        tensor = state.tensors[name]
        count = tensor.behind(seq)
        if count is None:
            continue
        optimizer = optimizers[tensor.group]
        coefficients = shared[_key(tensor, optimizer)]
        for slot in optimizer.slots():
            tensor.slots.setdefault(slot, np.zeros_like(tensor.values))
        tensor.steps += 1
        scale = -record.scale if optimizer.maximize else record.scale
        slots = [tensor.slots[slot] for slot in optimizer.slots()]
        arrays = [array[:count] for array in (tensor.values, gradient, *slots)]
        compute.step(optimizer.rule(), arrays, (scale, bound, *coefficients))


def widened(state: State, tensors: Tensors) -> dict[str, FloatArray]:
    """Return the gradients as flat arrays of the masters' dtype."""
    return {name: tensor.widened(state.master) for name, tensor in tensors.items()}


def moved(state: State, momentum: float | None, decays: Sequence[float] | None) -> list[Optimizer]:
    """Return each group's optimizer as the schedules have it in a step."""
    optimizers = state.groups.optimizers
    own: Sequence[float | None] = [None] * len(optimizers)
    return [
        optimizer.moved(momentum, decay)
        for optimizer, decay in zip(optimizers, decays or own, strict=True)
    ]


def _key(tensor: TensorState, optimizer: Optimizer) -> Key:
    fresh = not tensor.slots.keys() >= set(optimizer.slots())
    return tensor.group, tensor.steps, fresh


def _coefficients(
    state: State,
    gradients: Gradients,
    optimizers: Sequence[Optimizer],
    rates: list[float],
    asked: Asked,
) -> list[Coefficients]:
    """Return the coefficients of this step, once per distinct key."""
    limit = float(np.finfo(np.float64 if state.master is DType.F64 else np.float32).max)
    found: dict[Key, Coefficients] = {}
    for name in gradients:
        tensor = state.tensors[name]
        optimizer = optimizers[tensor.group]
        group, steps, fresh = key = _key(tensor, optimizer)
        if key in found:
            continue
        values = optimizer.coefficients(rates[group], steps + 1, fresh=fresh)
        if not all(abs(value) <= limit for value in values):
            at = "/optimizer" if asked.lr is None else "/lr"
            detail = (
                f"with the rate {rates[group]} and the hyperparameters of group {group} the step "
                f"leaves the range of {state.master}"
            )
            raise InvalidRequest(Fault(at, detail))
        found[key] = Coefficients(group=group, steps=steps, fresh=fresh, values=list(values))
    return list(found.values())


def _unusable(
    state: State, gradients: Gradients, norms: Mapping[str, float], action: Clipping | None
) -> Fault | None:
    """Return the first gradient element that cannot be used, if there is one."""
    for name, gradient in gradients.items():
        tensor = state.tensors[name]
        squared = state.optimizer(tensor).squares_gradient
        at = first_unusable(gradient, norms[name], action, squared=squared)
        if at is not None:
            where = [int(i) for i in np.unravel_index(at, tensor.shape)] if tensor.shape else []
            value = float(gradient[at])
            why = "overflows when squared" if math.isfinite(value) else "is not finite"
            detail = f"element {where} is {value}, which {why}; nothing was stepped"
            return Fault(pointer("grads", name, *where), detail)
    return None
