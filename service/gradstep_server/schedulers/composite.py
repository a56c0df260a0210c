"""What all schedules that hold schedules share: the list, and how much it may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gradstep_server.schedulers.base import Schedule

if TYPE_CHECKING:
    from gradstep_server.schedulers.union import Scheduler

MAX_DEPTH = 32
"""How deep schedules may be nested, the outermost one included."""

MAX_SCHEDULERS = 1_000
"""How many schedules one composite may hold, at all depths together."""


def _listed(schedulers: object) -> list[object]:
    """Return what is listed, before it is known to be valid."""
    return list(schedulers) if isinstance(schedulers, list | tuple) else []


def _nested(item: object) -> list[object]:
    """Return what a listed scheduler lists itself, if it is a composite."""
    if isinstance(item, dict):
        return _listed(item.get("schedulers"))
    return _listed(getattr(item, "schedulers", None))


def _within_limits(schedulers: object) -> object:
    """Refuse what is too much before the validation descends into it."""
    level, total, depth = _listed(schedulers), 0, 1
    while level:
        total, depth = total + len(level), depth + 1
        if total > MAX_SCHEDULERS:
            raise PydanticCustomError(
                "too_many_schedulers",
                "At most {limit} schedulers may be listed, nested ones included",
                {"limit": MAX_SCHEDULERS},
            )
        if depth > MAX_DEPTH:
            raise PydanticCustomError(
                "nested_too_deep",
                "Schedulers may be nested at most {limit} deep",
                {"limit": MAX_DEPTH},
            )
        level = [inner for item in level for inner in _nested(item)]
    return schedulers


def _without_metrics(schedulers: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
    """Refuse what follows a metric: a scheduler's own steps are not those measured."""
    for scheduler in schedulers:
        if scheduler.needs_metrics:
            raise PydanticCustomError(
                "metric_in_composite",
                "A scheduler that follows a metric, as {kind}, cannot be listed with others",
                {"kind": scheduler.kind_name()},
            )
    return schedulers


Schedulers = Annotated[
    tuple["Scheduler", ...],
    Field(min_length=1),
    BeforeValidator(_within_limits),
    AfterValidator(_without_metrics),
]
"""Any schedulers, nested ones included; the union is known once every class is."""


class Composite(Schedule):
    """A schedule made of others, which may be composites themselves.

    A subclass declares its `schedulers`, as `Schedulers`, behind its `type`.
    """

    if TYPE_CHECKING:  # a field of this class would stand before every subclass's `type`
        schedulers: tuple[Schedule, ...]

    @property
    def size(self) -> int:
        """How many schedules it holds, at all depths together."""
        return sum(scheduler.size for scheduler in self.schedulers)

    @property
    def moves_momentum(self) -> bool:
        """Whether any of the schedulers does."""
        return any(scheduler.moves_momentum for scheduler in self.schedulers)
