"""Schedules as torch steps through them."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from schedule_samples import COMPOSITES, METRICS, PLAIN, SCHEDULER, sample
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from gradstep_server.schedulers import SCHEDULERS, Momentums, Rates

POINTS = 120
"""Points of a recorded curve."""

SAMPLES = 5
"""Drawn parameters that are recorded beside the class's examples."""


FLOATS = {"pct_start"}
"""Parameters for which torch refuses an integer."""


CORRUPTING = {"CyclicLR", "OneCycleLR", "SWALR"}
"""Kinds that leave rates in torch's optimizer that others listed beside them read."""

PURE = [name for name in PLAIN if SCHEDULERS[name].torch_name and name not in CORRUPTING]
"""What composites hold where they are compared with torch."""


def piecewise(params: Mapping[str, Any], _: float) -> Callable[[int], float]:
    """Return PiecewiseLR's factor of base_lr as a function of t, point by point."""
    points = params["points"]

    def factor(t: int) -> float:
        for (start, first), (stop, last) in pairwise(points):
            if start <= t < stop:
                share = (t - start) / (stop - start)
                bent = {"linear": share, "cos": (1 - math.cos(math.pi * share)) / 2}
                return float(
                    first + (last - first) * bent.get(params.get("interpolation", "linear"), 0)
                )
        return float(points[0][1] if t < points[0][0] else points[-1][1])

    return factor


def expressed(params: Mapping[str, Any], base_lr: float, t: int) -> float:
    """Return ExpressionLR's rate as Python itself computes it."""
    names = {"abs": abs, "max": max, "min": min, "base_lr": base_lr, "t": t, **vars(math)}
    return float(eval(params["expression"], names))  # noqa: S307 - the examples' own text


def expression(params: Mapping[str, Any], base_lr: float) -> Callable[[int], float]:
    """Return ExpressionLR's factor of base_lr."""
    return lambda t: expressed(params, base_lr, t) / base_lr


FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any], float], Callable[[int], float]]] = {
    "PiecewiseLR": piecewise,
    "ExpressionLR": expression,
}
"""For kinds that no library has: from parameters and base_lr, the lambda of a LambdaLR."""


class RelativeToMagnitude(ReduceLROnPlateau):
    """torch's scheduler with the threshold mode that torch lacks, `rel_abs`."""

    def _is_better(self, a: float, best: float) -> bool:
        margin = self.threshold * abs(best) if math.isfinite(best) else 0.0
        return a < best - margin if self.mode == "min" else a > best + margin


class Stepped(NamedTuple):
    """What torch had in its optimizer at each step."""

    lr: Rates
    momentum: Momentums


def has_rates(params: Mapping[str, Any]) -> bool:
    """Tell whether the library has rates: transformers divides by 0 without any decay."""
    full = params.get("num_warmup_steps") == params.get("num_training_steps")
    return not (params["type"] == "HFPolynomial" and full)


def inputs(kind: str) -> list[tuple[dict[str, Any], float]]:
    """Return parameters and a base rate for each curve that a kind's golden file records."""
    rng = random.Random(kind)
    params = [{"type": kind, **example} for example in SCHEDULERS[kind].examples]
    # A composite's samples would change with every kind that is added.
    if kind not in COMPOSITES:
        params += [sample(kind, rng) for _ in range(SAMPLES)]
    base_lrs = [rng.choice([0.1, 1.0, 0.03]) for _ in params]
    return list(zip(params, base_lrs, strict=True))


def cases(kind: str) -> list[dict[str, Any]]:
    """Return what a kind's golden file records: parameters and torch's curves."""
    return [_case(params, base_lr) for params, base_lr in inputs(kind)]


def _case(params: dict[str, Any], base_lr: float) -> dict[str, Any]:
    found = stepped(params, base_lr, POINTS)
    case = {"params": params, "base_lr": base_lr, "lr": found.lr.tolist()}
    if SCHEDULER.validate_python(params).moves_momentum:
        case["momentum"] = found.momentum.tolist()
    if SCHEDULERS[params["type"]].needs_metrics:
        measured = METRICS[:POINTS].tolist()
        case["metrics"] = [None if math.isnan(value) else value for value in measured]
    return case


def stepped(params: Mapping[str, Any], base_lr: float, points: int) -> Stepped:
    """Return what torch has when stepped, ``type`` being among `params`.

    Where torch goes no further, the last values are repeated.
    """
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=base_lr)
    scheduler = build(params, optimizer)
    follows = SCHEDULERS[params["type"]].needs_metrics
    # torch warns of a scheduler that steps before its optimizer ever did.
    optimizer.step()
    group = optimizer.param_groups[0]
    found = Stepped(np.empty(points), np.empty(points))
    for t in range(points):
        found.lr[t], found.momentum[t] = group["lr"], group["momentum"]
        if t + 1 < getattr(scheduler, "total_steps", points):
            scheduler.step(*([METRICS[t]] if follows else []))
    return found


def build(
    params: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the scheduler of torch or transformers that `params` stand for."""
    kind = SCHEDULERS[params["type"]]
    if not (kind.torch_name or kind.reference):
        return LambdaLR(optimizer, FUNCTIONS[params["type"]](params, optimizer.defaults["lr"]))
    module, _, name = (kind.torch_name or kind.reference).rpartition(".")
    arguments: dict[str, Any] = {
        key: float(value) if key in FLOATS else value
        for key, value in params.items()
        if key != "type"
    }
    if name == "CyclicLR" and arguments.get("base_lr") is None:
        arguments["base_lr"] = optimizer.defaults["lr"]
    if "schedulers" in arguments:
        arguments["schedulers"] = [build(child, optimizer) for child in arguments["schedulers"]]
    construct = getattr(importlib.import_module(module), name)
    if arguments.get("threshold_mode") == "rel_abs":
        construct, arguments["threshold_mode"] = RelativeToMagnitude, "rel"
    scheduler = construct(optimizer=optimizer, **arguments)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    return scheduler
