"""Schedules as torch steps through them."""

from __future__ import annotations

import importlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from schedule_samples import COMPOSITES, sample

from gradstep_server.schedulers import SCHEDULERS, Rates

POINTS = 120
"""Points of a recorded curve."""

SAMPLES = 5
"""Drawn parameters that are recorded beside the class's examples."""


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
