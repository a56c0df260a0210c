"""Hugging Face's schedules, point by point, where its library is not installed.

Each function is written after the documentation of transformers and held against its
recorded curves. Rates are absolute: a base rate of 0 is no special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Params = Mapping[str, Any]
Rate = Callable[[Params, float, int], float]
"""From parameters with all their defaults, the base rate and t to the rate."""


def _wave(params: Params, progress: float) -> float:
    return (1 + math.cos(2 * math.pi * params["num_cycles"] * progress)) / 2


def _progress(params: Params, t: int) -> float:
    warmup = params["num_warmup_steps"]
    return float((t - warmup) / max(1, params["num_training_steps"] - warmup))


def _linear(params: Params, base_lr: float, t: int) -> float:
    whole = params["num_training_steps"]
    return float(base_lr * max(0, whole - t) / max(1, whole - params["num_warmup_steps"]))


def _cosine(params: Params, base_lr: float, t: int) -> float:
    return base_lr * _wave(params, _progress(params, t))


def _restarts(params: Params, base_lr: float, t: int) -> float:
    progress = _progress(params, t)
    if progress >= 1:
        return 0.0
    return base_lr * (1 + math.cos(math.pi * (params["num_cycles"] * progress % 1))) / 2


def _polynomial(params: Params, base_lr: float, t: int) -> float:
    least = float(params["lr_end"])
    if t > params["num_training_steps"]:
        return least
    return least + (base_lr - least) * float((1 - _progress(params, t)) ** params["power"])


def _constant(params: Params, base_lr: float, t: int) -> float:
    return base_lr


def _inverse_sqrt(params: Params, base_lr: float, t: int) -> float:
    warmup = params["num_warmup_steps"]
    scale = params["timescale"] or warmup or 10_000
    return base_lr / math.sqrt((t + scale - warmup) / scale)


def _to_least(params: Params, base_lr: float, progress: float) -> float:
    share = params["min_lr_rate"]
    least = params["min_lr"] if share is None else share * base_lr
    return float(least + (base_lr - least) * _wave(params, progress))


def _min_lr(params: Params, base_lr: float, t: int) -> float:
    return _to_least(params, base_lr, _progress(params, t))


def _min_lr_from_first(params: Params, base_lr: float, t: int) -> float:
    warmup, first = params["num_warmup_steps"], params["warmup_lr_rate"]
    if t >= warmup:
        return _to_least(params, base_lr, _progress(params, t + 1))
    if first is None:
        return float(base_lr * (t + 1) / warmup)
    return float(base_lr * (first + (1 - first) * t / max(1, warmup - 1)))


def _stable_decay(params: Params, base_lr: float, t: int) -> float:
    warmup, decay, least = (
        params[name] for name in ("num_warmup_steps", "num_decay_steps", "min_lr_ratio")
    )
    stable = params["num_stable_steps"]
    if stable is None:
        stable = params["num_training_steps"] - warmup - decay
    if t < warmup:
        up = t / warmup
        forms = {"linear": up, "cosine": (1 - math.cos(math.pi * up)) / 2}
        share = forms.get(params["warmup_type"], 1 - math.sqrt(1 - up))
    elif t < warmup + stable:
        share = 1.0
    elif t < warmup + stable + decay:
        down = (t - warmup - stable) / decay
        forms = {"linear": 1 - down, "cosine": _wave(params, down)}
        share = forms.get(params["decay_type"], 1 - math.sqrt(down))
    else:
        share = 0.0
    return float(base_lr * (least + (1 - least) * share))


_WHOLE: Mapping[str, Rate] = {
    "HFCosineWarmupWithMinLr": _min_lr_from_first,
    "HFWarmupStableDecay": _stable_decay,
}
"""Kinds with a warm-up of their own."""

_AFTER: Mapping[str, Rate] = {
    "HFLinear": _linear,
    "HFCosine": _cosine,
    "HFCosineWithRestarts": _restarts,
    "HFPolynomial": _polynomial,
    "HFConstantWithWarmup": _constant,
    "HFInverseSqrt": _inverse_sqrt,
    "HFCosineWithMinLr": _min_lr,
}
"""Kinds that begin with a line from 0."""


def rate(params: Params, base_lr: float, t: int) -> float:
    """Return the rate of a kind, ``type`` being among `params`, at t."""
    kind = params["type"]
    if kind in _WHOLE:
        return _WHOLE[kind](params, base_lr, t)
    warmup = params["num_warmup_steps"]
    return base_lr * t / warmup if t < warmup else _AFTER[kind](params, base_lr, t)
