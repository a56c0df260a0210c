"""The arithmetic of a step beside ``torch.optim``, both with as many threads as there are cores.

*kernel* is what computing a step takes when a session does it: finding what can be stepped
together, the coefficients with their bias corrections, and the loops. *reduction* is the float64
norm, by which gradients are clipped and found to be finite. *whole step* is both, with the record
that the log keeps; torch then clips too. All are warm: what fits the caches is in them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.rows import Progress, Row
from bench.turns import turn_about
from gradstep_server.optimizers import Clipping, Compute, warm_up
from gradstep_server.sessions import stepping
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.gradients import Gradients, runs_of
from gradstep_server.sessions.state import PARAMS, State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.survey import survey
from gradstep_server.sessions.tensors import DType, Tensor

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "AdamW": {"type": "AdamW", "lr": 1e-3},
    "Adam": {"type": "Adam", "lr": 1e-3},
    "SGD with momentum": {"type": "SGD", "lr": 1e-3, "momentum": 0.9},
}

_K, _M = 1_000, 1_000_000

SIZES: Mapping[str, tuple[int, int, float]] = {
    "1 k": (_K, 1, 0.6),
    "10 k": (10 * _K, 1, 0.6),
    "100 k": (100 * _K, 1, 0.6),
    "1 M": (_M, 1, 0.6),
    "1 M in 100 tensors": (_M, 100, 0.6),
    "25 M": (25 * _M, 1, 1.0),
    "100 M": (100 * _M, 1, 1.1),
}
"""Elements, tensors, and the kernel's target beside torch's fused one."""

REDUCTION_TARGET = 0.4
"""The reduction's share of the kernel."""

_CLIP = 1e9
"""A norm that no gradient here reaches, so that clipping only looks."""

_QUICK = ("1 k", "100 k", "1 M in 100 tensors")


def run(progress: Progress) -> list[Row]:
    """Measure every optimizer at every size."""
    sizes = {name: size for name, size in SIZES.items() if not progress.quick or name in _QUICK}
    total = len(OPTIMIZERS) * len(sizes)
    rows: list[Row] = []
    for label, size in sizes.items():
        for name, params in OPTIMIZERS.items():
            progress.show(len(rows) // 3, total)
            rows += _rows(f"{name}, {label}", params, size, quick=progress.quick)
    progress.show(total, total)
    return rows


def _rows(
    case: str,
    params: Mapping[str, Any],
    size: tuple[int, int, float],
    *,
    quick: bool,
) -> list[Row]:
    elements, tensors, target = size
    shapes = {f"layer{i:03}": elements // tensors for i in range(tensors)}
    rounds, calls = _effort(elements, quick=quick)
    with ours(params, shapes) as steps:
        measured = turn_about(steps | _theirs(params, shapes), rounds=rounds, calls=calls)
    torchs = ["torch fused", "torch foreach", "torch single"]

    def row(what: str, others: list[str], target: float | None) -> Row:
        return Row.compare("kernels", case, what, measured, ours=what, others=others, target=target)

    return [
        row("kernel", torchs, target),
        row("reduction", ["kernel"], REDUCTION_TARGET),
        row("whole step", ["torch clip + fused"], None),
    ]


def _effort(elements: int, *, quick: bool) -> tuple[int, int]:
    """Return how many rounds of how many calls such a size is worth."""
    if quick:
        return 5, 5
    if elements > 2 * _M:
        return (7, 1) if elements > 50 * _M else (15, 2)
    return 60, max(10, min(100, 2 * _M // elements))


@contextmanager
def ours(
    params: Mapping[str, Any], shapes: Mapping[str, int]
) -> Iterator[dict[str, Callable[[], object]]]:
    """Yield what a session does for a step, of which each call takes one."""
    compute = Compute(os.cpu_count() or 1)
    warm_up(compute)
    clip = {"type": "norm", "max_norm": _CLIP}
    config = SessionConfig.model_validate({"optimizer": params, "dtype": DType.F32, "clip": clip})
    state = State.new(config, 0.0)
    state.fill({f"{PARAMS}/{name}": t for name, t in _body(shapes, seed=1).items()}, {})
    body, asked, rates, seq = _body(shapes, seed=2), Asked(), state.rates(0), 1

    def kernel() -> None:
        optimizers = stepping.moved(state, state.momentum(), state.weight_decays())
        runs = runs_of(state, body, optimizers, seq)
        coefficients = stepping.coefficients_of(state, runs, optimizers, rates, asked)
        unclipped = Clipping(1.0, math.inf, clipped=False)
        stepping.step_runs(state, runs, optimizers, coefficients, unclipped, compute)

    runs = runs_of(state, body, state.groups.optimizers, seq)

    def reduction() -> None:
        survey(state, body, runs, compute)

    def whole() -> None:
        gradients = Gradients(body)
        record = stepping.plan(state, gradients, asked, compute)
        stepping.apply(state, record, gradients, compute, seq=seq)

    try:
        yield {"kernel": kernel, "reduction": reduction, "whole step": whole}
    finally:
        compute.close()


def _body(shapes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Return tensors as a body holds them that was received: one behind the other."""
    rng = np.random.default_rng(seed)
    data = rng.standard_normal(sum(shapes.values()), np.float32).view(np.uint8).data
    tensors, end = {}, 0
    for name, size in shapes.items():
        start, end = end, end + 4 * size
        tensors[name] = Tensor(DType.F32, (size,), data[start:end])
    return tensors


def _theirs(
    params: Mapping[str, Any], shapes: Mapping[str, int]
) -> dict[str, Callable[[], object]]:
    """Return the steps of torch's three implementations over the same tensors."""
    kind = getattr(torch.optim, params["type"])
    given = {name: value for name, value in params.items() if name != "type"}
    weights = []
    for gradient in _body(shapes, seed=2).values():
        weight = torch.nn.Parameter(torch.randn(gradient.size))
        weight.grad = torch.from_numpy(gradient.widened(DType.F32))
        weights.append(weight)
    flags = {
        "torch fused": {"fused": True},
        "torch foreach": {"foreach": True},
        "torch single": {"foreach": False, "fused": False},
    }
    steps: dict[str, Callable[[], object]] = {
        name: kind(weights, **given, **flag).step for name, flag in flags.items()
    }
    fused = steps["torch fused"]

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(weights, _CLIP)
        fused()

    return steps | {"torch clip + fused": clipped}
