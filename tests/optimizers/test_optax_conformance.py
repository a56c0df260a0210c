"""Optimizers that torch lacks against optax's, stepped live from equal parameters."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from session_states import Array, config, packed_all, started, take, values
from torch_optimizers import draw

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.tensors import DType

pytestmark = pytest.mark.conformance

SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 5), "b": (7,), "scalar": ()}
STEPS = 1000
POINTS: dict[str, list[dict[str, Any]]] = {
    "LAMB": [
        {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay}
        for lr in (1e-3, 1e-2)
        for betas in ([0.9, 0.999], [0.5, 0.9])
        for eps in (1e-6, 1e-3)
        for decay in (0.0, 0.1)
    ],
    # Its momentum is classical, and its local rate that of the paper where there is no decay.
    "LARS": [
        {"lr": 1.0, "momentum": momentum, "trust_coefficient": trust, "nesterov": nesterov}
        | {"eps": eps, "momentum_style": "classical"}
        for momentum in (0.5, 0.9)
        for trust in (1e-3, 1e-2)
        for nesterov in (False, True)
        for eps in (0.0, 1e-3)
    ],
}
NAMES = {
    "LAMB": {"lr": "learning_rate"},
    "LARS": {"lr": "learning_rate"},
}


def of_optax(kind: str, params: dict[str, Any]) -> Any:
    """Return the optimizer of optax with these hyperparameters."""
    optax = importlib.import_module("optax")
    arguments = {NAMES[kind].get(name, name): value for name, value in params.items()}
    arguments.pop("momentum_style", None)
    if "betas" in arguments:
        arguments["b1"], arguments["b2"] = arguments.pop("betas")
    return getattr(optax, OPTIMIZERS[kind].reference.removeprefix("optax."))(**arguments)


@pytest.mark.parametrize("kind", POINTS)
def test_a_thousand_steps_are_those_of_optax(kind: str) -> None:
    jax, optax = importlib.import_module("jax"), importlib.import_module("optax")
    jax.config.update("jax_enable_x64", True)
    worst = 0.0
    for seed, params in enumerate(POINTS[kind]):
        rng = np.random.default_rng(seed)
        initial = draw(rng, SHAPES, DType.F64)
        state = started(config({"type": kind, **params}), packed_all(initial))
        reference = of_optax(kind, params)
        theirs: Any = {name: jax.numpy.asarray(value) for name, value in initial.items()}
        kept = reference.init(theirs)
        update = jax.jit(reference.update)
        for _ in range(STEPS):
            gradients: dict[str, Array] = draw(rng, SHAPES, DType.F64)
            take(state, packed_all(gradients))
            changes, kept = update(gradients, kept, theirs)
            theirs = optax.apply_updates(theirs, changes)
        for name in SHAPES:
            expected = np.asarray(theirs[name])
            worst = max(worst, abs(values(state, name) - expected).max() / abs(expected).max())
    print(f"\n{kind}: worst |Δ| after {STEPS} steps {worst:.1e} × max|param|")
    assert worst <= 1e-9  # errors of a thousand steps add up
