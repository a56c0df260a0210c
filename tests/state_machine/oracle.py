"""What torch makes of a session's state: one step of it, and its rates.

Every step begins with the state that the service itself told before it, so that
promise D9 holds for this one step: errors do not add up, and none hides in
another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from session_app import read_file
from session_states import Array
from torch_optimizers import build, clip_gradients
from torch_schedules import stepped

from gradstep_server.optimizers.clips import TORCH_EPS

TOLERANCE = {"float64": 1e-12, "float32": 1e-6}
"""Promise D9, by the dtype of the masters."""

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
        facts["accumulated"] = json.loads(metadata.get("accumulated", "0"))
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
    pull: dict[str, float] = {}
    for name, tensor in tensors.items():
        assert tensor.grad is not None
        decay = float(groups[name]["weight_decay"]) * _largest(before.master(name))
        pull[name] = float(tensor.grad.abs().max()) + decay
        optimizer = _resumed(groups[name], tensor, before, name)
        optimizer.param_groups[0]["lr"] = rates[name]
        optimizer.step()
        after[f"params/{name}"] = tensor.numpy()
        for slot, value in optimizer.state[tensor].items():
            if slot != "step" and value is not None:
                after[f"{slot}/{name}"] = value.numpy()
    return TorchStep(after, pull, norm, clipped)


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
    known = {key: value for key, value in params.items() if key != "momentum_style"}
    optimizer = build(known, [tensor])
    slots = before.slots(name)
    if slots:
        state = {slot: torch.tensor(array) for slot, array in slots.items()}
        if params["type"] != "SGD":
            state["step"] = torch.tensor(float(before.counters[name]))
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
            scales.append(pull * pull if slot.endswith("_sq") else pull)
        delta = np.abs(after.tensors[key].astype(np.float64) - expected)
        if delta.max():
            worst = max(worst, float(delta.max()) / max(scales))
    return worst


def rate(scheduler: Mapping[str, Any] | None, base_lr: float, t: int) -> float:
    """Return torch's rate at the schedule's step t."""
    if scheduler is None:
        return base_lr
    return _curve(json.dumps(scheduler), base_lr)[t]


@lru_cache(maxsize=1024)
def _curve(scheduler: str, base_lr: float) -> list[float]:
    rates: list[float] = stepped(json.loads(scheduler), base_lr, _POINTS).lr.tolist()
    return rates


def same_rates(got: list[float], expected: list[float], bases: list[float]) -> bool:
    """Whether rates are torch's within promise D9."""
    return len(got) == len(expected) and all(
        abs(mine - torchs) <= 1e-9 * abs(torchs) + 1e-12 * base
        for mine, torchs, base in zip(got, expected, bases, strict=True)
    )


def _largest(array: Array) -> float:
    return float(np.abs(array).max())
