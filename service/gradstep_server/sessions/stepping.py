"""One optimizer step: what it will do (`plan`), and doing it (`apply`).

`plan` changes nothing. It checks the gradients and computes every number that
comes out of a reduction or of libm; `apply` needs only those numbers, the
gradients and elementwise arithmetic, so that a replayed step is bit-identical
to the live one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, Tag

from gradstep_server.errors import Fault, InvalidRequest, pointer
from gradstep_server.kinds import NUMBER_OR_LIST, NonNegative, Real
from gradstep_server.optimizers import (
    Clipping,
    Compute,
    Due,
    FloatArray,
    Optimizer,
    Pass,
    Scalar,
    in_dtype,
    matrices,
)
from gradstep_server.optimizers.clipping import largest
from gradstep_server.sessions import accumulation
from gradstep_server.sessions.digests import Index, index
from gradstep_server.sessions.errors import InvalidTensors, NonFiniteGradient, ParamsMissing
from gradstep_server.sessions.gradients import Gradients, Key, Run, runs_of
from gradstep_server.sessions.state import PARAMS, State
from gradstep_server.sessions.survey import UNCLIPPED, norm_of, survey
from gradstep_server.sessions.tensors import DType, Tensors


class Coefficients(BaseModel):
    """A rule's coefficients for the tensors of one group of which the same is kept."""

    model_config = ConfigDict(frozen=True)

    group: int
    steps: int
    fresh: bool
    scalars: dict[str, float] = {}
    """The scalars of these tensors before the step."""

    values: list[float]
    after: dict[str, float] = {}
    """Their scalars after the step."""


Rates = Annotated[
    Annotated[NonNegative, Tag("number")]
    | Annotated[list[NonNegative], Field(max_length=1_000, fail_fast=True), Tag("list")],
    NUMBER_OR_LIST,
]
"""One rate, or one for each group, which are fewer; an error names the shape that was sent."""


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

    model_config = ConfigDict(
        frozen=True, ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True
    )

    asked: Asked
    tensors: Index
    frozen: int = 0
    """How many of these tensors were frozen, so that their gradients were ignored."""

    lr: list[float]
    next_lr: list[float]
    momentum: float | None = None
    """What the schedule set for this step; None where the optimizer kept its own."""

    weight_decay: list[float] | None = None
    """What the schedule set for each group; None where there is none."""

    applied: bool
    moves: bool = True
    """Whether it is an update, so that the schedules move on."""

    accumulated: int | None = None
    """How many steps of the update are added up after this one; None without accumulation."""

    grad_norm: float | None
    clipped: bool
    scale: float
    bound: float | None
    scales: dict[str, bytes] = {}
    """`Clipping.scales`, little-endian in the masters' dtype."""

    coefficients: list[Coefficients]

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, record: bytes) -> Self:
        """Return the step of an entry; the same one for what was asked just now."""
        return cls.model_validate_json(record)

    def clipping(self, master: DType) -> Clipping:
        """Return what clipping does to the gradients."""
        bound = math.inf if self.bound is None else self.bound
        scales: dict[str, FloatArray] = {
            name: np.frombuffer(values, master.storage) for name, values in self.scales.items()
        }
        return Clipping(self.scale, bound, clipped=self.clipped, scales=scales)


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
    momentum, decays = state.momentum(), state.weight_decays()
    optimizers = moved(state, momentum, decays)
    seen = _look(state, tensors, optimizers, compute)
    if seen.fault and state.config.on_nonfinite == "reject":
        raise NonFiniteGradient(seen.fault)
    rates = asked.rates(len(optimizers)) or state.rates(state.clock())
    ahead = int(seen.moves and state.config.schedule_on == "step")
    state.weight_decays(ahead)  # what the next step cannot have, this one must not lead to
    applied = seen.moves and not seen.fault
    coefficients = coefficients_of(state, seen.runs, optimizers, rates, asked) if applied else {}
    norm, action = seen.norm, seen.clipping
    return StepRecord(
        asked=asked,
        tensors=index(tensors),
        frozen=seen.frozen,
        lr=rates,
        next_lr=state.rates(state.clock() + ahead),
        momentum=momentum,
        weight_decay=decays,
        applied=applied,
        moves=seen.moves,
        accumulated=seen.accumulated,
        grad_norm=norm if math.isfinite(norm) else None,
        clipped=action.clipped,
        scale=action.scale,
        bound=action.bound if math.isfinite(action.bound) else None,
        scales={name: values.tobytes() for name, values in action.scales.items()},
        coefficients=[
            Coefficients(
                group=group,
                steps=steps,
                fresh=fresh,
                scalars=dict(scalars),
                values=list(due.coefficients),
                after=dict(due.scalars),
            )
            for (group, steps, fresh, scalars), due in coefficients.items()
        ],
    )


class _Seen(NamedTuple):
    """What a step will do, as far as its gradients decide that."""

    runs: list[Run]
    """What is stepped, or added up."""

    norm: float
    clipping: Clipping
    fault: Fault | None
    moves: bool
    accumulated: int | None
    frozen: int


def _look(
    state: State, tensors: Tensors, optimizers: Sequence[Optimizer], compute: Compute
) -> _Seen:
    """Return what a step will do."""
    seq, count, norm = state.seq + 1, state.config.per_update, 0.0
    used = unfrozen(state, tensors)
    frozen = len(tensors) - len(used)
    accumulated = None
    if count > 1:
        runs = runs_of(state, used, optimizers, seq)
        norm = norm_of(runs, compute)
        fault = accumulation.unaddable(state, used, norm)
        accumulated = state.accumulated + (fault is None)
        if accumulated < count:
            _keep(tensors, state, runs)
            return _Seen(
                runs, norm, UNCLIPPED, fault, moves=False, accumulated=accumulated, frozen=frozen
            )
        used = accumulation.totals(state, used, compute)
    runs = runs_of(state, used, optimizers, seq)
    _keep(tensors, state, runs)
    norm, action, fault = survey(state, used, runs, compute)
    if fault and count > 1:
        accumulated = 0
    return _Seen(runs, norm, action, fault, moves=True, accumulated=accumulated, frozen=frozen)


def _keep(tensors: Tensors, state: State, runs: list[Run]) -> None:
    """Keep the runs of the next entry with the gradients that they were made of."""
    if isinstance(tensors, Gradients):
        tensors.keep(state, state.seq + 1, runs)


def apply(
    state: State, record: StepRecord, tensors: Tensors, compute: Compute, *, seq: int
) -> None:
    """Do what the record of entry `seq` says, in place."""
    adds = not record.moves and record.accumulated != state.accumulated
    if record.applied or adds:
        optimizers = moved(state, record.momentum, record.weight_decay)
        runs = tensors.taken(state, seq) if isinstance(tensors, Gradients) else None
        if runs is None:
            used = unfrozen(state, tensors)
            if record.applied and record.accumulated:
                used = accumulation.totals(state, used, compute)
            runs = runs_of(state, used, optimizers, seq)
        if adds:
            accumulation.add(state, runs, compute)
        else:
            _update(state, record, runs, optimizers, compute)
    if record.moves:
        state.updates += 1
        if record.accumulated is not None:
            accumulation.clear(state, seq)
    state.accumulated = 0 if record.moves else record.accumulated or 0


def _update(
    state: State,
    record: StepRecord,
    runs: Sequence[Run],
    optimizers: Sequence[Optimizer],
    compute: Compute,
) -> None:
    """Step tensors in place with the recorded numbers."""
    coefficients = {
        (c.group, c.steps, c.fresh, tuple(c.scalars.items())): Due(tuple(c.values), c.after)
        for c in record.coefficients
    }
    step_runs(state, runs, optimizers, coefficients, record.clipping(state.master), compute)


def unfrozen(state: State, tensors: Tensors) -> Tensors:
    """Return the gradients of the tensors that are stepped."""
    if state.frozen.isdisjoint(tensors):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name not in state.frozen}


def moved(state: State, momentum: float | None, decays: Sequence[float] | None) -> list[Optimizer]:
    """Return each group's optimizer as the schedules have it in a step."""
    optimizers = state.groups.optimizers
    own: Sequence[float | None] = [None] * len(optimizers)
    return [
        optimizer.moved(momentum, decay)
        for optimizer, decay in zip(optimizers, decays or own, strict=True)
    ]


def step_runs(
    state: State,
    runs: Sequence[Run],
    optimizers: Sequence[Optimizer],
    coefficients: Mapping[Key, Due],
    clipped: Clipping,
    compute: Compute,
) -> None:
    """Step tensors in place.

    Args:
        state: whose they are.
        runs: the tensors with their gradients.
        optimizers: each group's.
        coefficients: of the optimizers' rules, and scalars, by the runs' keys.
        clipped: what clipping does to the gradients.
        compute: runs the loops.
    """
    storage = state.master.storage
    scalars: dict[Key, list[Scalar]] = {}
    passes = []
    for run in runs:
        key = group, _, fresh, _ = run.key
        optimizer, due = optimizers[group], coefficients[key]
        if key not in scalars:
            signed = -clipped.scale if optimizer.maximize else clipped.scale
            scalars[key] = in_dtype((signed, clipped.bound, *due.coefficients), storage)
        for tensor in run.tensors:
            tensor.steps += 1
            tensor.scalars = due.scalars
            for slot in optimizer.slots_of(tensor.shape) if fresh else ():
                state.add_slot(tensor, slot)
        passes.append(_pass(state, run.scaled(clipped.scales), optimizer, scalars[key]))
    compute.run(passes)


def _pass(state: State, run: Run, optimizer: Optimizer, scalars: Sequence[Scalar]) -> Pass:
    """Return what steps a run, over the flat arrays of the state or over a whole tensor."""
    if not optimizer.whole:
        span, slots = run.span, optimizer.slots()
        values, *others = [state.flat[name][span] for name in (PARAMS, *slots)]
        return Pass(optimizer.rule(), [values, run.values[: run.size], *others], scalars)
    [tensor] = run.tensors
    shape = tensor.shape
    arrays = [matrices(tensor.values, shape), matrices(run.values, shape)]
    for slot, own_shape in optimizer.slots_of(shape).items():
        arrays.append(matrices(tensor.slots[slot], own_shape))
    return Pass(optimizer.rule_of(shape), arrays, scalars, whole=True)


def coefficients_of(
    state: State,
    runs: Sequence[Run],
    optimizers: Sequence[Optimizer],
    rates: list[float],
    asked: Asked,
) -> dict[Key, Due]:
    """Return the coefficients of this step, and the scalars after it, once per distinct key.

    Raises:
        InvalidRequest: one is too large for the masters' dtype.
    """
    limit = largest(state.master.storage)
    found: dict[Key, Due] = {}
    for run in runs:
        if run.key in found:
            continue
        group, steps, fresh, scalars = run.key
        due = optimizers[group].due(rates[group], steps + 1, fresh=fresh, scalars=dict(scalars))
        if not all(map(limit.__ge__, map(abs, due.coefficients))):
            at = "/optimizer" if asked.lr is None else "/lr"
            detail = (
                f"with the rate {rates[group]} and the hyperparameters of group {group} the step "
                f"leaves the range of {state.master}"
            )
            raise InvalidRequest(Fault(at, detail))
        found[run.key] = due
    return found
