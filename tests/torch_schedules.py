"""Schedules as torch steps through them, and parameters to step with.

The parameters are drawn from each class's own fields and limits, so that a new
kind is covered without being named here.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from gradstep_server.schedulers import SCHEDULERS, Rates, Schedule, Scheduler

SCHEDULER: TypeAdapter[Schedule] = TypeAdapter(Scheduler)
POINTS = 120
"""Points of a recorded curve."""

SAMPLES = 5
"""Drawn parameters that are recorded beside the class's examples."""

COMPOSITES = {name for name, kind in SCHEDULERS.items() if "schedulers" in kind.model_fields}


def cases(kind: str) -> list[dict[str, Any]]:
    """Return what a kind's golden file records: parameters and torch's curves."""
    rng = random.Random(kind)
    params = [{"type": kind, **example} for example in SCHEDULERS[kind].examples]
    # A composite's samples would change with every kind that is added.
    if kind not in COMPOSITES:
        params += [sample(kind, rng) for _ in range(SAMPLES)]
    base_lrs = [rng.choice([0.1, 1.0, 0.03]) for _ in params]
    return [
        {"params": point, "base_lr": base_lr, "lr": stepped(point, base_lr, POINTS).tolist()}
        for point, base_lr in zip(params, base_lrs, strict=True)
    ]


def stepped(params: Mapping[str, Any], base_lr: float, points: int) -> Rates:
    """Return the rates that torch gives when stepped, ``type`` being among `params`."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=base_lr)
    scheduler = _build(params, optimizer)
    # torch warns of a scheduler that steps before its optimizer ever did.
    optimizer.step()
    rates = np.empty(points)
    for t in range(points):
        rates[t] = optimizer.param_groups[0]["lr"]
        scheduler.step()
    return rates


def _build(
    params: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    module, _, name = SCHEDULERS[params["type"]].torch_name.rpartition(".")
    arguments = {key: value for key, value in params.items() if key != "type"}
    if "schedulers" in arguments:
        arguments["schedulers"] = [_build(child, optimizer) for child in arguments["schedulers"]]
    scheduler = getattr(importlib.import_module(module), name)(optimizer, **arguments)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    return scheduler


def sample(kind: str, rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """Draw valid parameters of a kind, composites nested at most `depth` deep."""
    if kind in COMPOSITES:
        return _sample_composite(kind, rng, depth)
    fields = SCHEDULERS[kind].model_json_schema()["properties"]
    drawn = {name: _sample_field(field, rng) for name, field in fields.items() if name != "type"}
    return {"type": kind, **drawn}


def sample_any(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """Draw valid parameters of any kind."""
    names = [name for name in SCHEDULERS if depth > 1 or name not in COMPOSITES]
    return sample(rng.choice(names), rng, depth)


def _sample_composite(kind: str, rng: random.Random, depth: int) -> dict[str, Any]:
    schedulers = [sample_any(rng, depth - 1) for _ in range(rng.randint(1, 4))]
    milestones = sorted(rng.sample(range(200), len(schedulers) - 1))
    return {"type": kind, "schedulers": schedulers, "milestones": milestones}


def _sample_field(field: Mapping[str, Any], rng: random.Random) -> Any:
    if field["type"] == "array":
        return [_sample_field(field["items"], rng) for _ in range(rng.randint(0, 5))]
    if field["type"] == "integer":
        return min(field["maximum"], int(10 ** rng.uniform(0, 3.3)))
    limit = field.get("maximum", 1.02)
    drawn = [rng.uniform(0.001, limit), 1 - 10 ** rng.uniform(-5, -1), 10 ** rng.uniform(-4, 0)]
    return rng.choice(drawn)
