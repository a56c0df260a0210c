"""torch's schedulers: built from a session's schedule, set to its t, and read back.

The classes themselves are used: a scheduler is built on an optimizer, put at t, and
asked for its `state_dict`, so that whatever a version of torch keeps is there.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer, lr_scheduler, swa_utils
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import SWALR

Spec = Mapping[str, Any]
"""A scheduler as a session has it, ``type`` included."""

_CODE = {"LambdaLR", "MultiplicativeLR"}
"""Schedulers of torch that are code, which no session can hold."""

_NOT_ON_ITS_OWN = (OneCycleLR, CyclicLR)
"""Kinds that begin at rates of their own, whatever the optimizer's is."""

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Place:
    """Where a schedule stands."""

    t: int
    """The schedule's own step, for the next step of the optimizer."""

    bases: Sequence[float]
    """The rate from which it starts, per group."""

    lrs: Sequence[float]
    """The rate of the next step, per group."""

    followed: Mapping[str, Any] = field(default_factory=dict)
    """What it keeps of the metrics, if it follows them."""


def build(spec: Spec, optimizer: Optimizer) -> LRScheduler:
    """Return torch's scheduler of this description, as new.

    Raises:
        ValueError: torch has no such scheduler, or one that would go on otherwise.
    """
    _check_family(spec)
    return _built(spec, optimizer)


def _built(spec: Spec, optimizer: Optimizer) -> LRScheduler:
    kind = spec["type"]
    arguments = {name: value for name, value in spec.items() if name != "type"}
    if kind == "CyclicLR" and arguments.get("base_lr") is None:
        arguments["base_lr"] = [
            group.get("initial_lr", group["lr"]) for group in optimizer.param_groups
        ]
    if "pct_start" in arguments:  # torch refuses an integer
        arguments["pct_start"] = float(arguments["pct_start"])
    if arguments.get("threshold_mode") == "rel_abs":
        raise ValueError("torch has no threshold_mode 'rel_abs'" + _WITHOUT)
    if "schedulers" in arguments:
        arguments["schedulers"] = [_built(child, optimizer) for child in arguments["schedulers"]]
    made: LRScheduler = _class(kind)(optimizer=optimizer, **arguments)
    return made


_WITHOUT = (
    ", so it cannot go on there. With with_scheduler=False the optimizer's state goes alone, at "
    "the present rate; session.schedule() has the rates to come."
)


def _class(kind: str) -> type[LRScheduler]:
    found = getattr(lr_scheduler, kind, None) or getattr(swa_utils, kind, None)
    if isinstance(found, type) and issubclass(found, LRScheduler) and kind not in _CODE:
        return found
    raise ValueError(f"torch has no scheduler {kind}{_WITHOUT}")


def _check_family(spec: Spec) -> None:
    """Refuse schedulers that in torch take each other's rates or momentum."""
    leaves = [each for each in _specs(spec) if "schedulers" not in each]
    if len(leaves) == 1:
        return
    cycles = [each for each in leaves if each["type"] in {"OneCycleLR", "CyclicLR"}]
    averages = [each for each in leaves if each["type"] == "SWALR"]
    if len(cycles) > 1 or len(averages) > 1:
        raise ValueError(
            "in torch two of OneCycleLR, CyclicLR or SWALR share one place for their rates"
            + _WITHOUT
        )
    if any(each.get("cycle_momentum", True) for each in cycles):
        raise ValueError(
            "in torch a scheduler with cycle_momentum beside others leaves them its momentum"
            + _WITHOUT
        )


def _specs(spec: Spec) -> Iterator[Spec]:
    """Yield a schedule and all that it holds."""
    yield spec
    for child in spec.get("schedulers", ()):
        yield from _specs(child)


def put(scheduler: LRScheduler, place: Place) -> None:
    """Set a scheduler as new to where it would be, had it been stepped `place.t` times.

    Raises:
        ValueError: torch cannot go on from there.
    """
    for leaf in _leaves(scheduler):
        if not isinstance(leaf, ReduceLROnPlateau | OneCycleLR | CyclicLR):
            # Those beside it may have been built from other rates than the session's.
            leaf.base_lrs = list(place.bases)
    _put(scheduler, place.t, place)


def _put(scheduler: LRScheduler, t: int, place: Place) -> None:
    scheduler._last_lr = list(place.lrs)
    if isinstance(scheduler, ChainedScheduler):
        for child in scheduler._schedulers:
            _put(child, t, place)
        return
    scheduler.last_epoch = t
    if isinstance(scheduler, SequentialLR):
        _put_sequence(scheduler, t, place)
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        best = place.followed.get("best")
        scheduler.best = scheduler.mode_worse if best is None else best
        scheduler.num_bad_epochs = place.followed.get("bad", 0)
        scheduler.cooldown_counter = place.followed.get("cooling", 0)
        return
    scheduler._step_count = t + 1
    if isinstance(scheduler, CosineAnnealingWarmRestarts):
        scheduler.T_cur, scheduler.T_i = _cosine(t, scheduler.T_0, scheduler.T_mult)


def _put_sequence(scheduler: SequentialLR, t: int, place: Place) -> None:
    starts, active = [0, *_milestones(scheduler)], _active(scheduler, t)
    for i, child in enumerate(scheduler._schedulers):
        if i > active and isinstance(child, SequentialLR | ChainedScheduler):
            msg = f"torch's SequentialLR cannot hand over to a {type(child).__name__}{_WITHOUT}"
            raise ValueError(msg)
        last = t if i == active else starts[i + 1] - 1 if i < active else -1
        if last >= starts[i]:
            _put(child, last - starts[i], place)


def _milestones(scheduler: SequentialLR) -> list[int]:
    return scheduler._milestones


def _active(scheduler: SequentialLR, t: int) -> int:
    return bisect_right(_milestones(scheduler), t)


def _cosine(t: int, length: int, growth: int) -> tuple[int, int]:
    """Return T_cur and T_i: how far t is into its cosine, and that cosine's length."""
    if growth == 1:
        return t % length, length
    while t >= length:
        t, length = t - length, length * growth
    return t, length


def _leaves(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    if not isinstance(scheduler, SequentialLR | ChainedScheduler):
        yield scheduler
        return
    for child in scheduler._schedulers:
        yield from _leaves(child)


def position(scheduler: LRScheduler) -> int:
    """Return t, how often a scheduler was stepped."""
    if isinstance(scheduler, ChainedScheduler):
        return position(scheduler._schedulers[0])
    return scheduler.last_epoch


def bases(scheduler: LRScheduler, groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the rate from which a scheduler starts, per group."""
    if isinstance(scheduler, ReduceLROnPlateau):
        # It scales the rate that it finds and keeps no other.
        return [float(group["lr"]) for group in groups]
    leaves = list(_leaves(scheduler))
    plain = [leaf for leaf in leaves if not isinstance(leaf, _NOT_ON_ITS_OWN)]
    return [float(rate) for rate in (plain or leaves)[0].base_lrs]


def followed(scheduler: LRScheduler) -> dict[str, Any]:
    """Return what a scheduler keeps of metrics, as a session's state has it."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        return {}
    return {
        "measured": scheduler.last_epoch,
        "best": float(scheduler.best) if math.isfinite(scheduler.best) else None,
        "bad": scheduler.num_bad_epochs,
        "cooling": scheduler.cooldown_counter,
    }


def described(scheduler: LRScheduler) -> dict[str, Any]:
    """Return a scheduler as a session is told of it.

    Raises:
        ValueError: It is code, or has one value per group where a session has one for all.
    """
    kind = type(scheduler).__name__
    try:
        known = _class(kind) is type(scheduler)
    except ValueError:
        known = False
    if not known:
        msg = (
            f"{kind} is code, which a session cannot hold. Give its schedule as a session has it, "
            'such as scheduler={"type": "HFLinear", …} or {"type": "ExpressionLR", …}, '
            "and last_epoch; or leave it out."
        )
        raise ValueError(msg)
    arguments = inspect.signature(type(scheduler)).parameters
    spec = {"type": kind}
    spec |= {name: vars(scheduler)[name] for name in arguments if name in vars(scheduler)}
    for taken in ("optimizer", "last_epoch", "scale_mode"):
        spec.pop(taken, None)
    return spec | _READ.get(type(scheduler), lambda _: {})(scheduler)


def _one(what: str, values: Sequence[float]) -> float:
    if len(set(values)) != 1:
        msg = f"{what} has a value per group, {list(values)}; a session has one for all groups"
        raise ValueError(msg)
    return float(values[0])


def _read_cyclic(scheduler: CyclicLR) -> dict[str, Any]:
    if scheduler._scale_fn_custom is not None:
        raise ValueError("CyclicLR has a scale_fn, which is code: a session cannot hold it")
    up = round(scheduler.total_size * scheduler.step_ratio)
    return {
        # Alone it begins at each group's own rate.
        "base_lr": scheduler.base_lrs[0] if len(set(scheduler.base_lrs)) == 1 else None,
        "max_lr": _one("max_lr", scheduler.max_lrs),
        "step_size_up": up,
        "step_size_down": round(scheduler.total_size) - up,
        **_cycled(scheduler),
    }


def _cycled(scheduler: OneCycleLR | CyclicLR) -> dict[str, Any]:
    """Return the momentum of a scheduler that moves it; torch keeps it in lists or in groups."""
    if not scheduler.cycle_momentum:
        return {"cycle_momentum": False}
    groups = scheduler.optimizer.param_groups
    return {
        name: _one(name, getattr(scheduler, f"{name}s", None) or [g[name] for g in groups])
        for name in ("base_momentum", "max_momentum")
    }


def _read_one_cycle(scheduler: OneCycleLR) -> dict[str, Any]:
    groups = scheduler.optimizer.param_groups
    phases = scheduler._schedule_phases
    ratios = [(g["max_lr"] / g["initial_lr"], g["initial_lr"] / g["min_lr"]) for g in groups]
    return {
        "max_lr": _one("max_lr", [group["max_lr"] for group in groups]),
        "pct_start": (phases[0]["end_step"] + 1) / scheduler.total_steps,
        "anneal_strategy": scheduler._anneal_func_type,
        "three_phase": len(phases) > 2,  # noqa: PLR2004 - the name says it
        "div_factor": ratios[0][0],
        "final_div_factor": ratios[0][1],
        **_cycled(scheduler),
    }


def _read_composite(scheduler: SequentialLR | ChainedScheduler) -> dict[str, Any]:
    children = [described(child) for child in scheduler._schedulers]
    if isinstance(scheduler, SequentialLR):
        return {"schedulers": children, "milestones": list(_milestones(scheduler))}
    return {"schedulers": children}


def _read_averaging(scheduler: SWALR) -> dict[str, Any]:
    rates = [group["swa_lr"] for group in scheduler.optimizer.param_groups]
    strategy = scheduler._anneal_strategy
    return {"swa_lr": _one("swa_lr", rates), "anneal_strategy": strategy}


_READ: Mapping[type[LRScheduler], Callable[[Any], dict[str, Any]]] = {
    MultiStepLR: lambda scheduler: {"milestones": sorted(scheduler.milestones.elements())},
    CyclicLR: _read_cyclic,
    OneCycleLR: _read_one_cycle,
    SWALR: _read_averaging,
    ReduceLROnPlateau: lambda scheduler: {"min_lr": _one("min_lr", scheduler.min_lrs)},
    SequentialLR: _read_composite,
    ChainedScheduler: _read_composite,
}
"""Where a class keeps under another name what it was built with."""


def difference(ours: LRScheduler, theirs: LRScheduler, *, stands: bool = True) -> str | None:
    """Return what of two schedulers at one t would lead to other rates; None for nothing.

    Args:
        ours: How it should be.
        theirs: How it is, of the same class.
        stands: Whether it matters where they stand: not before their turn in a sequence,
            nor after it.
    """
    saved = theirs.state_dict()
    for name, wanted in ours.state_dict().items():
        moves = name in _STANDS or (name == "_step_count" and isinstance(ours, SWALR))
        if name in _BESIDE or (name in _STANDS | {"_step_count"} and not (stands and moves)):
            continue
        if not _alike(wanted, saved.get(name)):
            what = f"{type(theirs).__name__}.{name}"
            return f"{what} is {saved.get(name)!r}, where {wanted!r} was expected"
    if not isinstance(ours, SequentialLR | ChainedScheduler):
        return None
    pairs = zip(ours._schedulers, vars(theirs)["_schedulers"], strict=True)
    for i, (one, other) in enumerate(pairs):
        turn = isinstance(ours, ChainedScheduler) or i == _active(ours, ours.last_epoch)
        if found := difference(one, other, stands=stands and turn):
            return found
    return None


_STANDS = {"last_epoch", "T_cur", "T_i"}
"""Where schedulers save how far they are."""

_BESIDE = {"_schedulers", "_last_lr", "_is_initial", "_get_lr_called_within_step", "default_min_lr"}
"""What schedulers save that no later rate follows from, and the schedulers within."""


def _alike(one: object, other: object) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other or math.isclose(one, other, rel_tol=_CLOSE)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    return one == other
