"""What torch makes of a session's state: one step of it, and its rates.

Every step begins with the state that the service itself told before it, so that
promise D9 holds for this one step: errors do not add up, and none hides in
another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import hugging_face_schedules
import numpy as np
import torch
from session_app import read_file
from session_states import Array
from torch_optimizers import build, clip_gradients, numbers_of, roundings_of
from torch_schedules import Stepped, expressed, piecewise, stepped
from torch_schedules import build as build_schedule

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.optimizers.clips import TORCH_EPS
from gradstep_server.schedulers import SCHEDULERS

TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
"""Promise D9, by the dtype of the masters."""

_SQUARES = {
    *("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum"),
    *("row_var", "col_var", "variance"),
}
"""Slots that hold squares."""

_POINTS = 640
"""Steps of a schedule; no run of the machine goes as far."""


@dataclass(frozen=True)
class StateFile:
    """What `GET …/state` tells."""

    raw: bytes
    tensors: Mapping[str, Array]
    """By `<slot>/<name>`."""

    facts: Mapping[str, Any]
    """The metadata, parsed."""

    @classmethod
    def read(cls, raw: bytes) -> StateFile:
        """Read a file."""
        tensors, metadata = read_file(raw)
        parsed = ("step", "epoch", "origin", "counters", "config")
        facts = {key: json.loads(metadata[key]) for key in parsed}
        facts["updates"] = json.loads(metadata.get("updates", metadata["step"]))
        facts["decay_origin"] = json.loads(metadata.get("decay_origin", "0"))
        facts["accumulated"] = json.loads(metadata.get("accumulated", "0"))
        facts["scalars"] = json.loads(metadata.get("scalars", "{}"))
        return cls(raw, tensors, facts)

    @property
    def counters(self) -> Mapping[str, int]:
        """How often each tensor was stepped."""
        counters: Mapping[str, int] = self.facts["counters"]
        return counters

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return sorted(self.counters)

    @property
    def stepped(self) -> bool:
        """Whether any parameter was stepped yet."""
        return any(self.counters.values()) or len(self.settled) > len(self.counters)

    @property
    def settled(self) -> dict[str, Array]:
        """All tensors but the sums of gradients that are accumulated."""
        return {k: a for k, a in self.tensors.items() if not k.startswith("grad_sum/")}

    @property
    def sums(self) -> dict[str, Array]:
        """The sums of gradients that are accumulated, by parameter."""
        start = "grad_sum/"
        return {k.removeprefix(start): a for k, a in self.tensors.items() if k.startswith(start)}

    def master(self, name: str) -> Array:
        """Return a parameter as the service computes with it."""
        return self.tensors[f"params/{name}"]

    def slots(self, name: str) -> dict[str, Array]:
        """Return what the optimizer keeps for a parameter."""
        split = ((key.partition("/"), array) for key, array in self.settled.items())
        return {slot: a for (slot, _, owner), a in split if owner == name and slot != "params"}


@dataclass(frozen=True)
class TorchStep:
    """What torch made of one step."""

    tensors: Mapping[str, Array]
    """Parameters and slots of what was stepped, by `<slot>/<name>`."""

    scalars: Mapping[str, Mapping[str, float]]
    """The numbers that are kept of what was stepped, by its name."""

    pull: Mapping[str, float]
    """For each parameter, the largest gradient that its slots took in."""

    norm: float
    """The norm of all gradients before they were clipped."""

    clipped: bool
    """Whether clipping changed a gradient."""


def torch_step(
    before: StateFile,
    gradients: Mapping[str, Array],
    groups: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, float],
    clip: Any,
) -> TorchStep:
    """Step a state with torch.

    Args:
        before: the state.
        gradients: by parameter; what has none is not stepped.
        groups: the hyperparameters of each parameter, `type` included.
        rates: the learning rate of each parameter.
        clip: the session's clipping.
    """
    tensors = {name: torch.tensor(before.master(name)) for name in gradients}
    for name, tensor in tensors.items():
        tensor.grad = torch.tensor(gradients[name].astype(before.master(name).dtype))
    norm = clip_gradients(list(tensors.values()), clip)
    clipped = bool(clip) and _exceeds(clip, norm, tensors, gradients)
    after: dict[str, Array] = {}
    scalars: dict[str, dict[str, float]] = {}
    pull: dict[str, float] = {}
    for name, tensor in tensors.items():
        assert tensor.grad is not None
        decay = float(groups[name].get("weight_decay", 0)) * _largest(before.master(name))
        pull[name] = float(tensor.grad.abs().max()) + decay
        optimizer = _resumed(groups[name], tensor, before, name)
        optimizer.param_groups[0]["lr"] = rates[name]
        with numbers_of([tensor]), roundings_of(groups[name]["type"]):
            optimizer.step()
        after[f"params/{name}"] = tensor.numpy()
        numbers = OPTIMIZERS[groups[name]["type"]].scalars
        state = optimizer.state[tensor]
        for slot, value in state.items():
            if slot not in {"step", *numbers} and value is not None:
                after[f"{slot}/{name}"] = value.numpy()
        if numbers:
            scalars[name] = {number: float(state[number]) for number in numbers}
    return TorchStep(after, scalars, pull, norm, clipped)


def _exceeds(
    clip: Mapping[str, Any],
    norm: float,
    tensors: Mapping[str, torch.Tensor],
    gradients: Mapping[str, Array],
) -> bool:
    """Whether clipping has changed these gradients."""
    if clip["type"] == "norm":
        return float(clip["max_norm"]) / (norm + TORCH_EPS) < 1
    changed = [
        tensor.grad is not None and bool((tensor.grad.double().numpy() != gradients[name]).any())
        for name, tensor in tensors.items()
    ]
    return any(changed)


def _resumed(
    params: Mapping[str, Any], tensor: torch.Tensor, before: StateFile, name: str
) -> torch.optim.Optimizer:
    """Return torch's optimizer of one tensor, with the state that the service told."""
    # torch has one style only, which is the service's default
    absent = {"momentum_style"} | ({"maximize"} if params["type"] == "Muon" else set())
    optimizer = build({k: value for k, value in params.items() if k not in absent}, [tensor])
    slots = before.slots(name)
    if not slots:
        return optimizer
    state: dict[str, Any] = {slot: torch.tensor(array) for slot, array in slots.items()}
    if params["type"] == "RMSprop" and params["momentum"]:  # torch has no late buffer
        state.setdefault("momentum_buffer", torch.zeros_like(tensor))
    count = before.counters[name]
    kind = OPTIMIZERS[params["type"]]
    if params["type"] != "SGD":
        state["step"] = torch.tensor(float(count)) if kind.torch_name else count
    for number, value in before.facts["scalars"].get(name, {}).items():
        state[number] = torch.tensor(value, dtype=tensor.dtype)
    optimizer.state[tensor] = state
    return optimizer


def worst_error(before: StateFile, after: StateFile, torch_made: TorchStep) -> float:
    """Return the largest error of a tensor, as a share of the largest number that made it.

    For a parameter that is the largest parameter before or after the step, as
    D9 says; what a slot takes in counts for a slot too.
    """
    worst = 0.0
    for key, expected in torch_made.tensors.items():
        slot, _, name = key.partition("/")
        scales = [_largest(expected), _largest(before.tensors.get(key, np.zeros(1)))]
        if slot != "params":
            pull = torch_made.pull[name]
            scales.append(pull * pull if slot in _SQUARES else pull)
        delta = np.abs(after.tensors[key].astype(np.float64) - expected)
        if delta.max():
            worst = max(worst, float(delta.max()) / max(scales))
    for name, numbers in torch_made.scalars.items():
        for number, wanted in numbers.items():
            if off := abs(after.facts["scalars"][name][number] - wanted):
                worst = max(worst, off / abs(wanted) if wanted else math.inf)
    return worst


def rate(
    scheduler: Mapping[str, Any] | None,
    base_lr: float,
    t: int,
    measured: tuple[float, ...] = (),
) -> float:
    """Return the rate at the schedule's step t: torch's, or its formula's where torch has none.

    Args:
        scheduler: its parameters, with all their defaults.
        base_lr: what it begins with.
        t: the step.
        measured: what a schedule follows that follows a metric.
    """
    if scheduler is None:
        return base_lr
    kind = scheduler["type"]
    if kind == "ExpressionLR":
        return expressed(scheduler, base_lr, t)
    if kind == "PiecewiseLR":
        return base_lr * piecewise(scheduler, base_lr)(t)
    if SCHEDULERS[kind].reference:
        return hugging_face_schedules.rate(scheduler, base_lr, t)
    if SCHEDULERS[kind].needs_metrics:
        return _fallen(json.dumps(scheduler), base_lr, measured)
    return _curve(json.dumps(scheduler), base_lr)[t]


def momentum(scheduler: Mapping[str, Any], t: int) -> float:
    """Return torch's momentum at the schedule's step t."""
    return float(_stepped(json.dumps(scheduler), 1.0).momentum[t])


@lru_cache(maxsize=1024)
def _fallen(scheduler: str, base_lr: float, measured: tuple[float, ...]) -> float:
    """Return torch's rate after all that was measured."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base_lr)
    following = build_schedule(json.loads(scheduler), optimizer)
    for metric in measured:
        following.step(metric)  # type: ignore[arg-type] # torch declares an epoch here
    return float(optimizer.param_groups[0]["lr"])


def _curve(scheduler: str, base_lr: float) -> list[float]:
    rates: list[float] = _stepped(scheduler, base_lr).lr.tolist()
    return rates


@lru_cache(maxsize=1024)
def _stepped(scheduler: str, base_lr: float) -> Stepped:
    return stepped(json.loads(scheduler), base_lr, _POINTS)


def same_rates(got: list[float], expected: list[float], bases: list[float]) -> bool:
    """Whether rates are torch's within promise D9."""
    return len(got) == len(expected) and all(
        abs(mine - torchs) <= 1e-9 * abs(torchs) + 1e-12 * base
        for mine, torchs, base in zip(got, expected, bases, strict=True)
    )


def _largest(array: Array) -> float:
    return float(np.abs(array).max())
