"""Power losses: what was not synced is lost, torn, or kept, in any order.

The service runs here on a disk that knows which writes no sync has covered. At
a random write the disk fails; then any of those writes are undone, file by
file, as a real one may or may not have done them, and the service starts again.
No acknowledged step may be missing, and every session is what its steps lead to.

The negative control is the same on a disk that only says that it syncs: there
acknowledged steps must be lost, or the disk proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crash.findings import Finding, evidence, scaled
from crash.plans import (
    KB,
    MB,
    Plan,
    Truth,
    create,
    one_tensor,
    position,
    put_params,
    state,
    step_call,
)
from failing_disk import FailingDisk
from session_app import Service, running

from gradstep_server.errors import GradstepError

LOSSES = 200
CONTROLS = 40
WRITES = 2000
"""The power is lost within so many writes; in a control within a quarter."""

_SIZES = {"a": KB, "b": 256 * KB, "c": 4 * MB}
PLANS = [
    one_tensor("small", KB),
    Plan("middle", _SIZES, lambda n: "b" if n % 3 == 0 else "a"),
    Plan("large", _SIZES, lambda n: "c" if n % 5 == 0 else "a"),
]
"""Three sessions, which are stepped at the same time."""


@dataclass
class Losses:
    """What the power losses of one directory came to."""

    starting: int = 0
    """How many met the service while it started."""

    unsynced: int = 0
    """How many writes they lost or tore."""

    steps: int = 0
    unanswered: int = 0
    """How many steps had no answer, and were there when the power was back."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Lose power again and again in one directory, then on disks that do not sync."""
    losses, controls = scaled(LOSSES, scale), scaled(CONTROLS, scale)
    source, found, lost = random.Random(1), Losses(), 0
    with evidence("power") as folder, running() as memory:
        truths = [Truth(memory, plan) for plan in PLANS]
        with running(_store(folder / "data")) as service:
            _begin(service)
        acknowledged = [0] * len(PLANS)
        for loss in range(1, losses + 1):
            _lose_power(folder / "data", acknowledged, source, found)
            _prove(folder / "data", acknowledged, truths, found)
            progress(loss, losses + controls)
        for control in range(1, controls + 1):
            lost += _loses(folder / f"control-{control}", truths, source)
            progress(losses + control, losses + controls)
    assert lost > controls / 2, f"a disk that does not sync lost nothing {controls - lost} times"
    found.steps = sum(acknowledged)
    return _findings(losses, found, controls, lost)


def _lose_power(data: Path, acknowledged: list[int], source: random.Random, found: Losses) -> None:
    """Step all sessions until the power is off, and count what is acknowledged."""
    with FailingDisk() as disk:
        disk.writes_left = source.randint(0, WRITES)
        try:
            with running(_store(data)) as service:
                _step_until_refused(service, acknowledged)
        except GradstepError:
            found.starting += 1
        found.unsynced += disk.lose_power(source)


def _prove(data: Path, acknowledged: Sequence[int], truths: Sequence[Truth], found: Losses) -> None:
    """Raise unless every session has all acknowledged steps, whole, and at most one more."""
    with running(_store(data)) as service:
        for plan, least, truth in zip(PLANS, acknowledged, truths, strict=True):
            held = state(service, plan)
            at = position(held)
            assert least <= at <= least + 1, f"{plan.id} is at {at}, {least} was acknowledged"
            assert truth.agrees(held), f"{plan.id} is not what {at} steps lead to"
            found.unanswered += at - least


def _loses(data: Path, truths: Sequence[Truth], source: random.Random) -> bool:
    """Lose power on a disk that does not sync; return whether anything acknowledged is lost."""
    acknowledged = [0] * len(PLANS)
    with FailingDisk() as disk:
        disk.syncs_lie = True
        with running(_store(data)) as service:
            _begin(service)
            disk.writes_left = source.randint(0, WRITES // 4)
            _step_until_refused(service, acknowledged)
        disk.lose_power(source)
    try:
        _prove(data, acknowledged, truths, Losses())
    except (AssertionError, GradstepError):
        return True
    return False


def _begin(service: Service) -> None:
    for plan in PLANS:
        assert create(service, plan).is_success
        assert put_params(service, plan).is_success


def _step_until_refused(service: Service, acknowledged: list[int]) -> None:
    refused = False
    while not refused:
        calls = [step_call(plan, n + 1) for plan, n in zip(PLANS, acknowledged, strict=True)]
        for number, answer in enumerate(service.together(*calls)):
            acknowledged[number] += answer.is_success
            if not answer.is_success:
                assert answer.json()["code"] == "store-unavailable", answer.text
                refused = True


def _store(data: Path) -> str:
    return f"sqlite:///{data}"


def _findings(losses: int, found: Losses, controls: int, lost: int) -> list[Finding]:
    return [
        Finding(
            "D1, D3",
            "power losses",
            f"{losses} power losses at random writes ({found.starting} of them while the service "
            f"started) under 3 sessions with bodies of 1 KB to 4 MB, {found.steps} steps; "
            f"{found.unsynced} unsynced writes lost, torn or reordered",
            f"0 acknowledged steps lost, 0 half steps; {found.unanswered} steps without an answer "
            "were there, and replayed; states bit-identical to the same steps in memory",
        ),
        Finding(
            "D1",
            "the same without sync",
            f"negative control: {controls} power losses on a disk that says that it syncs, and "
            "does not",
            f"acknowledged steps lost in {lost} of {controls}, as must be",
        ),
    ]
