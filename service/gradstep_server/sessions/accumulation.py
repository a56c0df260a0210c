"""Gradients that are added up over several steps until an update is made of them.

The sums are of the masters' dtype and elementwise, each gradient added in the
order of the log: what a tensor's sum is after an entry follows from its
elements alone, so that it can be kept in a snapshot piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradstep_server.errors import Fault, pointer
from gradstep_server.optimizers import Compute, FloatArray, Pass, in_dtype
from gradstep_server.optimizers.clipping import largest
from gradstep_server.optimizers.compute import add_share
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.gradients import Run
from gradstep_server.sessions.state import GRAD_SUM, PARAMS, State
from gradstep_server.sessions.survey import element_fault
from gradstep_server.sessions.tensors import Tensor, Tensors


def unaddable(state: State, tensors: Tensors, norm: float) -> Fault | None:
    """Return why gradients with this global norm cannot be added up, if they cannot.

    So many as make an update must be finite together, whatever else is sent.
    """
    share, count = state.config.share, state.config.per_update
    limit = largest(state.master.storage) / 2 / (share * count)
    if norm <= limit:
        return None
    for name, gradient in tensors.items():
        values = gradient.widened(state.master)
        wrong = ~(np.abs(values) <= limit)
        if wrong.any():
            at = int(np.argmax(wrong))
            finite = math.isfinite(values[at])
            why = f"overflows when {count} like it are added" if finite else "is not finite"
            return element_fault(name, gradient.shape, at, float(values[at]), why)
    return (
        None if math.isfinite(norm) else Fault("/grads", "their norm exceeds the largest float64")
    )


def add(state: State, runs: Sequence[Run], compute: Compute) -> None:
    """Add gradients to the sums."""
    for run in runs:
        for tensor in run.tensors:
            state.add_sum(tensor)
            tensor.summed = True
    share = in_dtype((state.config.share,), state.master.storage)
    compute.run(
        [
            Pass(add_share, (state.flat[GRAD_SUM][run.span], run.values[: run.size]), share)
            for run in runs
        ]
    )


def totals(state: State, tensors: Tensors, compute: Compute) -> dict[str, Tensor]:
    """Return what the sums and these gradients come to, one behind the other in memory.

    The sums stay as they are. Tensors that no gradient came for are left out, and
    so are frozen ones.
    """
    chosen = [
        tensor
        for name, tensor in state.tensors.items()
        if (tensor.summed or name in tensors) and name not in state.frozen
    ]
    chosen.sort(key=lambda tensor: tensor.start)
    storage = state.master.storage
    sums: FloatArray = np.zeros(sum(tensor.size for tensor in chosen), storage)
    body = sums.view(np.uint8).data
    share = in_dtype((state.config.share,), storage)
    found: dict[str, Tensor] = {}
    passes = []
    start = 0
    for tensor in chosen:
        stop = start + tensor.size
        if tensor.summed:
            sums[start:stop] = state.add_sum(tensor)
        if tensor.name in tensors:
            gradient = tensors[tensor.name].widened(state.master)
            passes.append(Pass(add_share, (sums[start:stop], gradient), share))
        data = body[start * storage.itemsize : stop * storage.itemsize]
        found[tensor.name] = Tensor(state.master, tensor.shape, data)
        start = stop
    compute.run(passes)
    return found


def clear(state: State, seq: int) -> None:
    """Begin anew, behind the update of entry `seq`."""
    for tensor in state.tensors.values():
        count = tensor.behind(seq)
        if tensor.summed and count is not None:
            state.add_sum(tensor)[:count] = 0
            tensor.summed = False


def end(state: State) -> None:
    """Give back the memory of sums that are not needed any more."""
    state.flat.pop(GRAD_SUM, None)
    for tensor in state.tensors.values():
        tensor.grad_sum = None


def parted(tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a state without the sums, and the sums by parameter."""
    start = f"{GRAD_SUM}/"
    others = {key: tensor for key, tensor in tensors.items() if not key.startswith(start)}
    sums = {k.removeprefix(start): tensor for k, tensor in tensors.items() if k.startswith(start)}
    return others, sums


def check(state: State, tensors: Tensors, sums: Tensors, accumulated: int) -> None:
    """Raise unless a session can go on with these sums.

    Args:
        state: the session, still empty.
        tensors: what it is filled with beside them, by `<slot>/<name>`.
        sums: by parameter.
        accumulated: how many steps they are of.

    Raises:
        InvalidTensors: they do not fit, or the session makes an update sooner.
    """
    count = state.config.per_update
    if accumulated >= count or (sums and not accumulated):
        detail = f"is {accumulated}, and the session makes an update of every {count} steps"
        if sums and not accumulated:
            detail = f"is 0, though there are tensors {GRAD_SUM}/…"
        raise InvalidTensors(Fault("/__metadata__/accumulated", detail))
    for name, total in sums.items():
        param = tensors.get(f"{PARAMS}/{name}")
        if param is None or total.shape != param.shape or not total.dtype.widens_to(state.master):
            detail = f"must be of the shape of {PARAMS}/{name}, and no wider than {state.master}"
            raise InvalidTensors(Fault(pointer(GRAD_SUM, name), detail))
        if not np.isfinite(total.widened(state.master)).all():
            raise InvalidTensors(Fault(pointer(GRAD_SUM, name), "has elements that are not finite"))


def fill(state: State, sums: Tensors) -> None:
    """Set the sums of a session that has its parameters."""
    for name, total in sums.items():
        tensor = state.tensors[name]
        total.widen_into(state.add_sum(tensor))
        tensor.summed = True
