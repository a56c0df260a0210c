"""Every optimizer beside those whose numbers it has, at many points for a thousand steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from conformance_table import Row, Table, reference_of
from session_states import COMPUTE, Array
from torch_optimizers import TorchRun, varied

from gradstep_server.optimizers import OPTIMIZERS, Optimizer, Scalars, Shape, matrices
from gradstep_server.sessions.tensors import DType

pytestmark = pytest.mark.conformance

POINTS = 50
STEPS = 1_000
SHAPES: tuple[Shape, ...] = ((40,), (5, 8), (2, 5, 4))
TOLERANCE = {DType.F64: 1e-12, DType.F32: 1e-6}
"""Promise D9."""

OF_MUON = 1e-2
"""What a step of Muon may differ by where torch rounds as the machine has it."""


class Reference(NamedTuple):
    """What a kind is compared with."""

    kind: str
    whose: str
    """`{}` stands for the name and the version of a library's optimizer."""

    run: Callable[[Mapping[str, Any], Array], Any]
    """From hyperparameters and a parameter, something like a `TorchRun` of a tensor `p`."""

    only: Mapping[str, Any] = {}
    """Hyperparameters that have one value there."""

    tolerance: Mapping[DType, float] = TOLERANCE


class StockRun(TorchRun):
    """torch as it is, whatever the machine makes of its roundings."""

    fixed = False


def of_torch(params: Mapping[str, Any], initial: Array) -> TorchRun:
    """Return torch's run, or that of a kind's paper in torch's plain operations."""
    return TorchRun(params, {"p": initial})


def as_it_is(params: Mapping[str, Any], initial: Array) -> TorchRun:
    """Return torch's run with nothing fixed."""
    return StockRun(params, {"p": initial})


def of_optax(params: Mapping[str, Any], initial: Array) -> Any:
    """Return optax's run."""
    from optax_optimizers import OptaxRun  # noqa: PLC0415 - installed for `make conformance` only

    return OptaxRun(params, initial)


def references(kind: str) -> list[Reference]:
    """Return all that a kind is compared with."""
    if kind == "Muon":
        stock = dict.fromkeys(TOLERANCE, OF_MUON)
        as_is = Reference(kind, "{} as it is: see below", as_it_is, tolerance=stock)
        return [Reference(kind, "{}, its roundings fixed", of_torch), as_is]
    if OPTIMIZERS[kind].torch_name:
        return [Reference(kind, "{}", of_torch)]
    if kind == "LARS":
        # Steps as long as the tensor itself soon lead to infinity.
        slow = {"trust_coefficient": 1e-3}
        # optax has no decay like the paper's, and the rate inside the buffer only.
        only = slow | {"momentum_style": "classical", "weight_decay": 0.0}
        return [Reference(kind, "{}", of_optax, only), Reference(kind, "its paper", of_torch, slow)]
    return [Reference(kind, "{}", of_optax), Reference(kind, "its paper", of_torch)]


REFERENCES = [reference for kind in OPTIMIZERS for reference in references(kind)]


class Loop:
    """A parameter that an optimizer's rule steps, with nothing of a session around it."""

    def __init__(self, optimizer: Optimizer, shape: Shape, dtype: DType) -> None:
        self._optimizer = optimizer
        self._shape = shape
        self.p = np.linspace(-3, 3, math.prod(shape), dtype=dtype.storage).reshape(shape)
        self._grad = np.zeros_like(self.p)
        slots = optimizer.slots_of(shape)
        self._slots = {slot: np.zeros(own, dtype.storage) for slot, own in slots.items()}
        self._scalars: Scalars = {}
        arrays = [self.p, self._grad, *self._slots.values()]
        self._seen = [
            matrices(array.ravel(), array.shape) if optimizer.whole else array.ravel()
            for array in arrays
        ]

    def step(self, gradient: Array, lr: float, step: int) -> None:
        """Take a step."""
        np.copyto(self._grad, gradient)
        due = self._optimizer.due(lr, step, fresh=step == 1, scalars=self._scalars)
        sign = -1.0 if self._optimizer.maximize else 1.0
        rule = self._optimizer.rule_of(self._shape)
        COMPUTE.step(rule, self._seen, (sign, math.inf, *due.coefficients))

    def level(self, run: Any) -> None:
        """Take over the state of a reference."""
        np.copyto(self.p, run.values("p"))
        self._scalars = run.scalars("p")
        kept = run.slots("p")
        for slot, array in self._slots.items():
            np.copyto(array, kept[slot])


def worst_step(
    params: Mapping[str, Any], run: Callable[..., Any], dtype: DType, seed: int
) -> float:
    """Step a loop beside a reference, whose state it is given after each step.

    Args:
        params: the hyperparameters of both.
        run: makes the reference.
        dtype: of the parameter.
        seed: of gradients and rates.

    Returns:
        The worst |Δ| of a step, as a share of the largest parameter before or after it.
    """
    rng = np.random.default_rng(seed)
    optimizer = OPTIMIZERS[params["type"]].model_validate(params)
    shapes = [shape for shape in SHAPES if not optimizer.unfit(shape)]
    loop = Loop(optimizer, shapes[seed % len(shapes)], dtype)
    beside = run(params, loop.p.copy())
    worst = 0.0
    for step in range(1, STEPS + 1):
        lr = optimizer.lr * 10 ** rng.uniform(-1, 0)
        spread = 10 ** rng.uniform(-2, 1, loop.p.shape)
        gradient = (rng.standard_normal(loop.p.shape) * spread).astype(dtype.storage)
        before = abs(loop.p).max()
        beside.at(lr)
        beside.step({"p": gradient.copy()})
        loop.step(gradient, lr, step)
        expected = beside.values("p")
        delta = abs(loop.p.astype(np.float64) - expected).max()
        worst = max(worst, float(delta / max(before, abs(expected).max())))
        loop.level(beside)
    return worst


@pytest.mark.parametrize(
    "reference", REFERENCES, ids=lambda reference: f"{reference.kind}-{reference.run.__name__}"
)
def test_a_thousand_steps_with_many_hyperparameters_are_those_of_the_reference(
    reference: Reference, conformance: Table
) -> None:
    worst = {}
    for dtype in TOLERANCE:
        rng = random.Random(reference.kind)
        points = [{**varied(reference.kind, rng), **reference.only} for _ in range(POINTS)]
        worst[dtype] = max(
            worst_step(params, reference.run, dtype, seed) for seed, params in enumerate(points)
        )
    shares = tuple(worst[dtype] / allowed for dtype, allowed in TOLERANCE.items())
    name = reference.whose.format(reference_of(OPTIMIZERS[reference.kind], ""))
    conformance.optimizers.append(Row(reference.kind, name, POINTS, STEPS, shares))
    for dtype, allowed in reference.tolerance.items():
        assert worst[dtype] <= allowed
