"""Parameters of schedulers, drawn from each class's own fields and limits.

So a new kind is covered without being named here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from gradstep_server.schedulers import (
    NOTHING,
    SCHEDULERS,
    Followed,
    Metrics,
    Schedule,
    Scheduler,
)

SCHEDULER: TypeAdapter[Schedule] = TypeAdapter(Scheduler)

COMPOSITES = [name for name, kind in SCHEDULERS.items() if "schedulers" in kind.model_fields]
MEASURED = [name for name, kind in SCHEDULERS.items() if kind.needs_metrics]
PLAIN = [name for name in SCHEDULERS if name not in {*COMPOSITES, *MEASURED}]
"""What composites may hold beside composites."""

METRICS: Metrics = np.round(
    np.exp(-np.arange(3_000) / 400) + np.random.default_rng(0).normal(0, 0.05, 3_000), 4
)
"""What a training might measure: a noisy loss that falls, at times no number at all."""
METRICS[50::400] = np.nan


def measured(schedule: Schedule) -> Followed:
    """Return what a schedule keeps of `METRICS`."""
    return schedule.follow(NOTHING, METRICS)


_ATTEMPTS = 1_000


def sample(
    kind: str, rng: random.Random, depth: int = 2, plain: Sequence[str] = PLAIN
) -> dict[str, Any]:
    """Draw valid parameters of a kind.

    Args:
        kind: its name.
        rng: where chance comes from.
        depth: how deep composites are nested at most.
        plain: what composites may hold beside composites.
    """
    if kind in COMPOSITES:
        return _sample_composite(kind, rng, depth, plain)
    fields = SCHEDULERS[kind].model_json_schema()["properties"]
    for _ in range(_ATTEMPTS):
        drawn = {"type": kind}
        for name, field in fields.items():
            if name == "type":
                continue
            # No schema says what a text may be; the examples do.
            written = [example[name] for example in SCHEDULERS[kind].examples if name in example]
            is_text = field.get("type") == "string" and "enum" not in field
            drawn[name] = rng.choice(written) if is_text else _sample_field(field, rng)
        if _is_valid(drawn):
            return drawn
    raise AssertionError(f"no valid {kind} in {_ATTEMPTS} attempts")


def sample_any(rng: random.Random, depth: int = 2, plain: Sequence[str] = PLAIN) -> dict[str, Any]:
    """Draw valid parameters of any kind, as `sample` does."""
    names = [*plain, *(COMPOSITES if depth > 1 else ())]
    return sample(rng.choice(names), rng, depth, plain)


def _is_valid(params: Mapping[str, Any]) -> bool:
    """Tell whether fields that were drawn one by one fit together."""
    try:
        SCHEDULER.validate_python(params)
    except ValidationError:
        return False
    return True


def _sample_composite(
    kind: str, rng: random.Random, depth: int, plain: Sequence[str]
) -> dict[str, Any]:
    schedulers = [sample_any(rng, depth - 1, plain) for _ in range(rng.randint(1, 4))]
    drawn: dict[str, Any] = {"type": kind, "schedulers": schedulers}
    if "milestones" in SCHEDULERS[kind].model_fields:
        drawn["milestones"] = sorted(rng.sample(range(200), len(schedulers) - 1))
    return drawn


def _sample_field(field: Mapping[str, Any], rng: random.Random) -> Any:
    if "anyOf" in field:
        return _sample_field(rng.choice(field["anyOf"]), rng)
    if "enum" in field:
        return rng.choice(field["enum"])
    return _BY_TYPE[field["type"]](field, rng)


def _sample_array(field: Mapping[str, Any], rng: random.Random) -> list[Any]:
    if "prefixItems" in field:
        return [_sample_field(item, rng) for item in field["prefixItems"]]
    drawn = [_sample_field(field["items"], rng) for _ in range(rng.randint(0, 5))]
    return sorted(drawn) if "prefixItems" in field["items"] else drawn


def _sample_integer(field: Mapping[str, Any], rng: random.Random) -> int:
    return min(int(field["maximum"]), int(10 ** rng.uniform(0, 3.3)))


def _sample_number(field: Mapping[str, Any], rng: random.Random) -> float:
    limit = field.get("maximum", 1.02)
    drawn = [rng.uniform(0.001, limit), 1 - 10 ** rng.uniform(-5, -1), 10 ** rng.uniform(-4, 0)]
    default = field.get("default", 0)
    if default > limit or 0 < default < 0.01:
        drawn = [default * 10 ** rng.uniform(-1, 1)]
    return rng.choice(drawn)


_BY_TYPE: Mapping[str, Callable[[Mapping[str, Any], random.Random], Any]] = {
    "array": _sample_array,
    "integer": _sample_integer,
    "number": _sample_number,
    "boolean": lambda _, rng: rng.random() < 0.5,
    "null": lambda _, __: None,
}
