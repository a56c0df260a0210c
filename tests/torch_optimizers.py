"""Optimizers as torch steps them, and hyperparameters to step with."""

from __future__ import annotations

import inspect
import itertools
import json
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from fixed_roundings import FixedRoundings
from paper_optimizers import PAPERS
from pydantic import ValidationError
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


def fitting(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a kind steps: all, but for Muon."""
    optimizer = OPTIMIZERS[kind]()
    return {name: shape for name, shape in shapes.items() if not optimizer.unfit(shape)}


def accepted(kind: str) -> Collection[str]:
    """Return the hyperparameters that torch, or the kind's paper, has."""
    made_by = constructor(kind)
    own = PAPERS[kind].defaults_of if kind in PAPERS else inspect.signature(made_by).parameters
    return own.keys()


def constructor(kind: str) -> Callable[..., Any]:
    """Return torch's class, or what the kind's paper says."""
    name = OPTIMIZERS[kind].torch_name.removeprefix("torch.optim.")
    return getattr(torch.optim, name) if name else PAPERS[kind]


def known(kind: str, params: Mapping[str, Any]) -> bool:
    """Whether torch has these hyperparameters: it has one style of SGD's momentum only."""
    return params.keys() - {"type"} <= {*accepted(kind)}


def examples(kind: str) -> list[dict[str, Any]]:
    """Return a kind's examples that torch knows, ``type`` included."""
    made = OPTIMIZERS[kind].examples
    return [{"type": kind, **example} for example in made if known(kind, example)]


def grid(kind: str) -> list[dict[str, Any]]:
    """Return a kind's examples with every flag both ways, and decay and momentum off and on."""
    fields = OPTIMIZERS[kind].model_fields
    axes: dict[str, tuple[Any, ...]] = {
        name: (False, True)
        for name, field in fields.items()
        if field.annotation is bool and known(kind, {name: True})
    }
    axes |= {
        name: values
        for name, values in (("weight_decay", (0.0, 0.1)), ("momentum", (0.0, 0.9)))
        if name in fields
    }
    points = [
        example | dict(zip(axes, point, strict=True))
        for example in examples(kind)
        for point in itertools.product(*axes.values())
    ]
    distinct = {json.dumps(point, sort_keys=True): point for point in points if _valid(point)}
    return list(distinct.values())


def varied(kind: str, rng: random.Random) -> dict[str, Any]:
    """Return a point of a kind's grid with its numbers moved about."""
    params = dict(rng.choice(grid(kind)))
    for name, value in params.items():
        several = isinstance(value, list)
        numbers = value if several else [value]
        if name == "type" or not all(_moves(kind, name, number) for number in numbers):
            continue
        near = [_near(number, rng) for number in numbers]
        moved = {name: near if several else near[0]}
        if _valid(params | moved):
            params |= moved
    return params


def _moves(kind: str, name: str, value: Any) -> bool:
    """Whether a hyperparameter is a number that need not be whole."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and OPTIMIZERS[kind].model_fields[name].annotation is not int


def _near(number: float, rng: random.Random) -> float:
    """Return a number nearby; one that is close to 1 is moved by what it lacks of it."""
    factor = 10 ** rng.uniform(-0.5, 0.5)
    return 1 - (1 - number) * factor if 0.5 <= number < 1 else number * factor


def _valid(params: Mapping[str, Any]) -> bool:
    try:
        OPTIMIZERS[params["type"]].model_validate(params)
    except ValidationError:
        return False
    return True


def build(params: Mapping[str, Any], tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Return torch's optimizer of these hyperparameters, in its plainest loop."""
    construct = constructor(params["type"])
    arguments = {key: value for key, value in params.items() if key != "type"}
    if "betas" in arguments:  # torch refuses JSON's integers
        arguments["betas"] = tuple(float(beta) for beta in arguments["betas"])
    arguments |= {flag: False for flag in ("foreach", "fused") if flag in accepted(params["type"])}
    made = construct(tensors, **arguments)
    assert isinstance(made, torch.optim.Optimizer)
    return made


@contextmanager
def numbers_of(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Let torch keep the numbers beside its tensors, such as NAdam's product, as exact as those."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(tensors[0].dtype)
    yield
    torch.set_default_dtype(before)


def roundings_of(kind: str) -> AbstractContextManager[Any]:
    """Fix what torch leaves to the machine where a kind's numbers would hang on it."""
    return FixedRoundings() if kind == "Muon" else nullcontext()


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

    fixed = True
    """Whether roundings that torch leaves to the machine are fixed."""

    def __init__(
        self, params: Mapping[str, Any], initial: Mapping[str, Array], clip: Any = None
    ) -> None:
        self.clip = clip
        self._kind = params["type"]
        self._scalars = OPTIMIZERS[params["type"]].scalars.keys()
        self.tensors = {name: torch.tensor(array) for name, array in initial.items()}
        self.optimizer = build(params, list(self.tensors.values()))
        self._rate = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, GAMMA)

    def at(self, lr: float) -> None:
        """Set the rate of the next step."""
        self.optimizer.param_groups[0]["lr"] = lr

    def step(self, gradients: Gradients) -> None:
        """Step the tensors that have a gradient."""
        present = []
        for name, tensor in self.tensors.items():
            gradient = gradients.get(name)
            tensor.grad = None if gradient is None else torch.tensor(gradient)
            present += [tensor] if gradient is not None else []
        if self.clip:
            clip_gradients(present, self.clip)
        roundings = roundings_of(self._kind) if self.fixed else nullcontext()
        with numbers_of(list(self.tensors.values())), roundings:
            self.optimizer.step()
        self._rate.step()

    def values(self, name: str) -> Array:
        array: Array = self.tensors[name].numpy()
        return array

    def slots(self, name: str) -> dict[str, Array]:
        """Return the tensors that torch keeps for a stepped tensor."""
        kept = self.optimizer.state[self.tensors[name]]
        stepped = kept.get("step", 1)  # Adagrad makes state before
        return {
            slot: value.numpy()
            for slot, value in kept.items()
            if slot not in {"step", *self._scalars} and value is not None and stepped
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
        spread = np.ldexp(1.0, rng.integers(-10, 4, shape))  # the same on every machine
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
    chosen = examples(kind) + random.Random(kind).sample(grid(kind), 4)
    return [
        _case(params, dtype, seed)
        for seed, params in enumerate(chosen)
        for dtype in (DType.F32, DType.F64)
    ]


def _case(params: Mapping[str, Any], dtype: DType, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = fitting(params["type"], RECORDED)
    initial = draw(rng, shapes, dtype)
    run = TorchRun(params, initial)
    gradients, after = [], {}
    for n in range(1, max(RECORDED_STEPS) + 1):
        drawn = draw_gradients(rng, shapes, dtype)
        run.step(drawn)
        gradients.append({name: g.tolist() for name, g in drawn.items() if g is not None})
        if n in RECORDED_STEPS:
            after[str(n)] = {name: run.values(name).tolist() for name in shapes}
    return {
        "params": dict(params),
        "dtype": dtype,
        "gamma": GAMMA,
        "initial": {name: array.tolist() for name, array in initial.items()},
        "grads": gradients,
        "after": after,
    }
