"""What optimizer classes do beyond what tests/test_kinds.py asks of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from session_states import COMPUTE, config, packed, started, take, values
from torch_optimizers import build

from gradstep_server.optimizers import OPTIMIZERS, AnyOptimizer, Optimizer, warm_up

OPTIMIZER: TypeAdapter[Optimizer] = TypeAdapter(AnyOptimizer)
KINDS = pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
EXAMPLES = pytest.mark.parametrize(
    "params",
    [{"type": name, **params} for name, kind in OPTIMIZERS.items() for params in kind.examples],
    ids=str,
)


@KINDS
def test_the_defaults_are_those_of_torch(kind: type[Optimizer]) -> None:
    theirs = build({"type": kind.__name__}, [torch.zeros(1, 1)]).defaults
    ours = kind().model_dump()
    shared = ours.keys() & theirs.keys()
    own = {"type", "momentum_style"} | ({"maximize"} - theirs.keys())  # Muon's cannot in torch
    assert shared == ours.keys() - own
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@EXAMPLES
def test_an_example_steps(params: dict[str, Any]) -> None:
    optimizer = OPTIMIZER.validate_python(params)
    state = started(config(params), {"w": packed([[1.0, -2.0]])})
    for _ in range(3):
        take(state, {"w": packed([[0.5, -0.5]])})
    moved = values(state, "w")
    assert np.isfinite(moved).all()
    assert (moved != [1.0, -2.0]).all()
    assert set(state.tensors["w"].slots) == set(optimizer.slots_of((1, 2)))


@EXAMPLES
def test_warming_up_compiles_every_loop_for_both_masters(params: dict[str, Any]) -> None:
    warm_up(COMPUTE)
    rule = OPTIMIZER.validate_python(params).rule()
    compiled = {str(signature[0].dtype) for signature in getattr(rule, "signatures", ())}
    assert compiled == {"float32", "float64"}
