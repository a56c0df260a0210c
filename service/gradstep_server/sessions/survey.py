"""Looking at the gradients of a step: their norm, their clipping, and whether they can be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from gradstep_server.errors import Fault, pointer
from gradstep_server.optimizers import Clipping, Compute, added
from gradstep_server.optimizers.clipping import (
    Measured,
    Present,
    first_unusable,
    largest_usable,
    scale_parts,
    tensor_norm,
)
from gradstep_server.sessions.gradients import Run
from gradstep_server.sessions.state import State
from gradstep_server.sessions.tensors import Tensor, Tensors

UNCLIPPED = Clipping(1.0, math.inf, clipped=False)


def survey(
    state: State, tensors: Tensors, runs: Sequence[Run], compute: Compute
) -> tuple[float, Clipping, Fault | None]:
    """Return the global norm of the gradients, their clipping, and why they are unusable."""
    norm = norm_of(runs, compute)
    action = None
    if math.isfinite(norm):
        action = _clipping(state, norm, runs, compute)
    fault = _fault(state, tensors, norm, action, compute)
    return norm, action if action and not fault else UNCLIPPED, fault


def _clipping(state: State, norm: float, runs: Sequence[Run], compute: Compute) -> Clipping:
    """Return what the session's clipping does to finite gradients."""
    if state.config.clip is None:
        return UNCLIPPED
    present = (
        Present(tensor.name, tensor.shape, tensor.values, gradient)
        for run in runs
        for tensor, gradient in run.parts()
    )
    return state.config.clip.done_to(Measured(norm, [run.values for run in runs], present, compute))


def norm_of(runs: Sequence[Run], compute: Compute) -> float:
    """Return the global norm, NaN or infinite if an element is."""
    sums = [compute.sums_of_squares(run.values, run.cuts()) for run in runs]
    total = added(chain.from_iterable(sums))
    if math.isfinite(total):
        return math.sqrt(total)
    # Not finite, or float64 of which only the squares are not.
    return math.hypot(*(tensor_norm(run.values, compute) for run in runs))


def _fault(
    state: State, tensors: Tensors, norm: float, action: Clipping | None, compute: Compute
) -> Fault | None:
    """Return why gradients with this global norm cannot be used, if they cannot."""
    if norm <= largest_usable(state.master.storage, action, squared=True) and norm < math.inf:
        return None  # whatever is squared
    for name, gradient in tensors.items():
        fault = _unusable(state, name, gradient, action, compute)
        if fault is not None:
            return fault
    if math.isfinite(norm):
        return None
    return Fault("/grads", "the norm of the gradients exceeds the largest float64")


def _unusable(
    state: State, name: str, gradient: Tensor, action: Clipping | None, compute: Compute
) -> Fault | None:
    """Return the first element of a gradient that cannot be used, if there is one."""
    tensor = state.tensors[name]
    values = clipped = gradient.widened(state.master)
    if action and name in action.scales:
        clipped = values.copy()
        scale_parts(clipped, action.scales[name])
    squared = state.optimizer(tensor).squares_gradient
    at = first_unusable(clipped, tensor_norm(clipped, compute), action, squared=squared)
    if at is None:
        return None
    value = float(values[at])
    why = "overflows when squared" if math.isfinite(value) else "is not finite"
    return element_fault(name, tensor.shape, at, value, why)


def element_fault(name: str, shape: tuple[int, ...], at: int, value: float, why: str) -> Fault:
    """Return what is wrong with an element of a gradient, by its indices."""
    where = [int(i) for i in np.unravel_index(at, shape)] if shape else []
    detail = f"element {where} is {value}, which {why}; nothing was stepped"
    return Fault(pointer("grads", name, *where), detail)
