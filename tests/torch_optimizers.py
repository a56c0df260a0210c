"""Optimizers as torch steps them, and hyperparameters to step with."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from paper_optimizers import PAPERS
from session_states import Array

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.tensors import DType

SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 5), "b": (7,), "scalar": ()}
"""The tensors of a conformance run."""

RECORDED: dict[str, tuple[int, ...]] = {"w": (2, 3), "b": (2,)}
"""The tensors of a golden file."""

RECORDED_STEPS = (1, 2, 3, 12)
GAMMA = 0.97
"""What the rate is multiplied by after every step."""

Gradients = Mapping[str, Array | None]
"""By name; None for a tensor that has no gradient in this step."""


GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "NAdam": {
        "betas": ([0.9, 0.999], [0, 0.5]),
        "weight_decay": (0.0, 0.1),
        "momentum_decay": (4e-3, 0.5),
        "decoupled_weight_decay": (False, True),
        "maximize": (False, True),
    },
    "ASGD": {
        "lambd": (1e-4, 0.1),
        "alpha": (0.75, 0.0),
        "t0": (1e6, 5, -3),
        "weight_decay": (0.0, 0.1),
        "maximize": (False, True),
    },
    "LAMB": {
        "betas": ([0.9, 0.999], [0, 0.5]),
        "eps": (1e-6, 1e-3),
        "weight_decay": (0.0, 0.1),
        "maximize": (False, True),
    },
    "LARS": {
        "lr": (1.0,),
        "momentum": (0.5, 0.9),
        "weight_decay": (0.0, 0.1),
        "trust_coefficient": (1e-3, 0.1),
        "nesterov": (False, True),
        "maximize": (False, True),
    },
    "Adafactor": {
        "lr": (0.01, 1.0),
        "beta2_decay": (-0.8, -0.3),
        "eps": ([None, 1e-3], [1e-8, 0.1]),
        "d": (1.0, 2.0),
        "weight_decay": (0.0, 0.1),
        "maximize": (False, True),
    },
}
"""What kinds are tried with: every combination."""


def grid(kind: str) -> list[dict[str, Any]]:
    """Return combinations of a kind's hyperparameters, ``type`` included."""
    if kind in GRIDS:
        points = itertools.product(*GRIDS[kind].values())
        return [
            {"type": kind, "lr": 0.01} | dict(zip(GRIDS[kind], point, strict=True))
            for point in points
        ]
    flag = (False, True)
    axes: dict[str, tuple[Any, ...]]
    if kind == "SGD":
        buffers = ((0.0, 0.0, False), (0.0, 0.5, False), (0.9, 0.0, False), (0.9, 0.5, False))
        pairs = itertools.product((*buffers, (0.9, 0.0, True)), (0.0, 0.1), flag)
        names = ("momentum", "dampening", "nesterov")
        return [
            {"type": kind, "lr": 0.05, **dict(zip(names, buffer, strict=True))}
            | {"weight_decay": decay, "maximize": maximize}
            for buffer, decay, maximize in pairs
        ]
    axes = {"weight_decay": (0.0, 0.1), "amsgrad": flag, "maximize": flag}
    if kind == "Adam":
        axes["decoupled_weight_decay"] = flag
    moments = (([0.9, 0.999], 1e-8), ([0, 0.5], 1e-3))
    return [
        {"type": kind, "lr": 0.01, "betas": betas, "eps": eps} | dict(zip(axes, point, strict=True))
        for (betas, eps), point in itertools.product(moments, itertools.product(*axes.values()))
    ]


def build(params: Mapping[str, Any], tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Return torch's optimizer of these hyperparameters, in its plainest loop."""
    arguments = {key: value for key, value in params.items() if key != "type"}
    if "betas" in arguments:  # torch refuses JSON's integers
        arguments["betas"] = tuple(float(beta) for beta in arguments["betas"])
    name = OPTIMIZERS[params["type"]].torch_name.removeprefix("torch.optim.")
    made_by = getattr(torch.optim, name) if name else PAPERS[params["type"]]
    plain = inspect.signature(made_by).parameters.keys() & {"foreach", "fused"}
    made = made_by(tensors, **dict.fromkeys(plain, False), **arguments)
    assert isinstance(made, torch.optim.Optimizer)
    return made


@contextmanager
def numbers_of(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Let torch keep the numbers beside its tensors, such as NAdam's product, as exact as those."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(tensors[0].dtype)
    yield
    torch.set_default_dtype(before)


def clip_gradients(tensors: list[torch.Tensor], clip: Any) -> float:
    """Clip the gradients of these tensors; return their norm before, in float64."""
    norms = [tensor.grad.double().norm() for tensor in tensors if tensor.grad is not None]
    if not norms:
        return 0.0
    norm = torch.stack(norms).norm()
    if clip and clip["type"] == "norm":
        torch.nn.utils.clip_grads_with_norm_(tensors, clip["max_norm"], norm, foreach=False)
    elif clip and clip["type"] == "value":
        torch.nn.utils.clip_grad_value_(tensors, clip["value"], foreach=False)
    elif clip:
        for tensor in tensors:
            assert tensor.grad is not None
            scale = _optax_scale(tensor.grad.double().numpy(), tensor.double().numpy(), clip)
            tensor.grad.copy_(torch.tensor(tensor.grad.double().numpy() * scale))
    return float(norm)


def _optax_scale(gradient: Array, weight: Array, clip: Any) -> Any:
    """Return what optax multiplies a gradient by, its units laid as torch lays them.

    optax.clip_by_block_rms and optax.adaptive_grad_clip, in float64; units are the
    first axis, as in timm's adaptive_clip_grad.
    """
    if not gradient.size:
        return 1.0
    if clip["type"] == "block_rms":
        rms = np.sqrt(np.mean(np.square(gradient)))
        return 1 / np.maximum(1.0, rms / clip.get("threshold", 1.0))
    axes = tuple(range(1, gradient.ndim)) if gradient.ndim > 1 else None
    norm, weighs = (
        np.sqrt(np.sum(np.square(x), axis=axes, keepdims=True)) for x in (gradient, weight)
    )
    most = clip.get("clipping", 0.01) * np.maximum(weighs, clip.get("eps", 1e-3))
    return np.where(norm < most, 1.0, most / np.maximum(norm, 1e-6))


class TorchRun:
    """Parameters that torch steps, with a rate that decays and with clipping."""

    def __init__(
        self, params: Mapping[str, Any], initial: Mapping[str, Array], clip: Any = None
    ) -> None:
        self.clip = clip
        self._scalars = OPTIMIZERS[params["type"]].scalars.keys()
        self.tensors = {name: torch.tensor(array) for name, array in initial.items()}
        self.optimizer = build(params, list(self.tensors.values()))
        self._rate = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, GAMMA)

    def step(self, gradients: Gradients) -> None:
        """Step the tensors that have a gradient."""
        present = []
        for name, tensor in self.tensors.items():
            gradient = gradients.get(name)
            tensor.grad = None if gradient is None else torch.tensor(gradient)
            present += [tensor] if gradient is not None else []
        clip_gradients(present, self.clip)
        with numbers_of(list(self.tensors.values())):
            self.optimizer.step()
        self._rate.step()

    def values(self, name: str) -> Array:
        array: Array = self.tensors[name].numpy()
        return array

    def slots(self, name: str) -> dict[str, Array]:
        """Return the tensors that torch keeps for a tensor."""
        kept = self.optimizer.state[self.tensors[name]]
        return {
            slot: value.numpy()
            for slot, value in kept.items()
            if slot not in {"step", *self._scalars} and value is not None
        }

    def scalars(self, name: str) -> dict[str, float]:
        """Return the numbers that torch keeps for a tensor, the counter left out."""
        kept = self.optimizer.state[self.tensors[name]]
        return {scalar: float(kept[scalar]) for scalar in self._scalars if scalar in kept}


def draw(
    rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], dtype: DType
) -> dict[str, Array]:
    """Return random values, from small to large."""
    drawn = {}
    for name, shape in shapes.items():
        spread = 10 ** rng.uniform(-3, 1, shape)
        drawn[name] = np.asarray(rng.standard_normal(shape) * spread, dtype.master.storage)
    return drawn


def draw_gradients(
    rng: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], dtype: DType
) -> dict[str, Array | None]:
    """Return random gradients, some of them absent, but never the first tensor's."""
    drawn = draw(rng, shapes, dtype)
    first = next(iter(shapes))
    return {
        name: array if name == first or rng.random() < 0.8 else None
        for name, array in drawn.items()
    }


def cases(kind: str) -> list[dict[str, Any]]:
    """Return what a kind's golden file records: gradients in, parameters out."""
    chosen = [
        {"type": kind, **example}
        for example in OPTIMIZERS[kind].examples
        if "momentum_style" not in example  # torch has one style only
    ]
    chosen += random.Random(kind).sample(grid(kind), 4)
    return [
        _case(params, dtype, seed)
        for seed, params in enumerate(chosen)
        for dtype in (DType.F32, DType.F64)
    ]


def _case(params: Mapping[str, Any], dtype: DType, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    initial = draw(rng, RECORDED, dtype)
    run = TorchRun(params, initial)
    gradients, after = [], {}
    for n in range(1, max(RECORDED_STEPS) + 1):
        drawn = draw_gradients(rng, RECORDED, dtype)
        run.step(drawn)
        gradients.append({name: g.tolist() for name, g in drawn.items() if g is not None})
        if n in RECORDED_STEPS:
            after[str(n)] = {name: run.values(name).tolist() for name in RECORDED}
    return {
        "params": dict(params),
        "dtype": dtype,
        "gamma": GAMMA,
        "initial": {name: array.tolist() for name, array in initial.items()},
        "grads": gradients,
        "after": after,
    }
