"""What a session is configured with, and how its parameter groups resolve.

The configuration a client sends is kept as it is; what each tensor is stepped
with is computed from it by `resolve`, so that overrides are validated like any
other hyperparameter and the ones in use can be reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from gradstep_server.errors import Fault, pointer
from gradstep_server.kinds import MAX_COUNT, NonNegative, PositiveCount
from gradstep_server.optimizers import AnyClip, AnyOptimizer, Optimizer
from gradstep_server.schedulers import Scheduler
from gradstep_server.sessions.errors import InvalidConfig
from gradstep_server.sessions.tensors import DType

Name = Annotated[
    str, StringConstraints(max_length=200, pattern=r"^[^\u0000-\u001f\u007f\ufffe\uffff]*$")
]
"""Text without control characters, which no page or picture could show."""

MAX_PATTERNS = 256
"""Every pattern is tried on every tensor, which takes a second at 4,096 tensors."""

MAX_STARS = 16
"""How many stars a pattern may hold: each is one more search in every name."""


def _few_stars(pattern: str) -> str:
    if pattern.count("*") > MAX_STARS:
        raise ValueError(f"at most {MAX_STARS} stars are accepted in a pattern")
    return pattern


Pattern = Annotated[
    str, StringConstraints(min_length=1, max_length=500), AfterValidator(_few_stars)
]

FewPatterns = Annotated[list[Pattern], Field(max_length=MAX_PATTERNS, fail_fast=True)]

Retain = Literal["none", "all"] | Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]


class _ConfigModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _is_none(value: object) -> bool:
    return value is None


class ParamGroup(_ConfigModel):
    """Tensors by name, and the hyperparameters that differ for them."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    __pydantic_extra__: dict[str, Any] = Field(init=False)

    match: Annotated[FewPatterns, Field(min_length=1)]
    """Patterns over tensor names: `*` is any text, `?` any character, and every
    other character is itself. Overrides such as `lr` or `weight_decay` stand
    beside it."""

    optimizer: AnyOptimizer | None = Field(default=None, exclude_if=_is_none)
    """An optimizer of the group's own, instead of overrides. A change of the session's
    optimizer leaves it as it is."""

    def matches(self, name: str) -> bool:
        """Whether a pattern of the group matches the tensor's name."""
        return _matched(self.match, name)


class Accumulate(_ConfigModel):
    """Gradients of several steps that are added up until an update is made of them."""

    steps: PositiveCount
    """How many steps make one update; 1 is no accumulation."""

    mode: Literal["mean", "sum"] = "mean"
    """Whether the update is made of the mean of their gradients, or of the sum."""


def _few_patterns(groups: list[ParamGroup]) -> list[ParamGroup]:
    if sum(len(group.match) for group in groups) > MAX_PATTERNS:
        raise ValueError(f"at most {MAX_PATTERNS} patterns are accepted in all groups together")
    return groups


class SessionConfig(_ConfigModel):
    """Everything that decides what a session's steps do."""

    name: Name | None = None
    """A name for people; need not be unique."""

    optimizer: AnyOptimizer
    """The optimizer and its hyperparameters; `lr` is where a schedule starts from."""

    scheduler: Scheduler | None = None
    """How the learning rate moves; null keeps it."""

    weight_decay_scheduler: Scheduler | None = None
    """How the weight decay moves, from the optimizer's own `weight_decay`; null keeps it."""

    schedule_on: Literal["step", "epoch"] = "step"
    """What moves the schedules on: every step, or the end of an epoch that the client sends.
    A scheduler that follows a metric needs epochs, which bring it."""

    param_groups: Annotated[
        list[ParamGroup],
        Field(max_length=MAX_PATTERNS, fail_fast=True),
        AfterValidator(_few_patterns),
    ] = Field(default_factory=list)
    """Groups of tensors with hyperparameters of their own. A tensor belongs to
    the first group that matches it, otherwise to group 0, the optimizer's own."""

    freeze: FewPatterns = Field(default_factory=list)
    """Patterns, as in a group's `match`, of tensors that are not stepped: a gradient of
    theirs is ignored."""

    accumulate: Accumulate | None = None
    """How the gradients of several steps make one update; null makes one of every step."""

    clip: AnyClip | None = None
    """Clipping, before `maximize` and everything else that the optimizer does."""

    on_nonfinite: Literal["reject", "skip"] = "reject"
    """What NaN or infinity in a gradient does: `reject` refuses the step, `skip`
    takes it without applying anything."""

    durability: Literal["step", "relaxed"] = "step"
    """When a step is acknowledged: `step` means once it is synced to the store,
    `relaxed` before that, so that a loss of power may take the last second's steps."""

    retain: Retain = "none"
    """How far back a session can be rewound: the last so many steps for sure, to
    the beginning with `all`, or with `none` to the second-newest snapshot."""

    dtype: DType = DType.F32
    """The dtype of the parameters as they travel; F16 and BF16 keep float32 masters."""

    @property
    def per_update(self) -> int:
        """How many steps make one update."""
        return 1 if self.accumulate is None else self.accumulate.steps

    @property
    def share(self) -> float:
        """What each gradient counts for in the update that it is part of."""
        mean = self.accumulate is not None and self.accumulate.mode == "mean"
        return 1 / self.per_update if mean else 1.0


class Changes(_ConfigModel):
    """What may be changed of a configuration; what is not sent stays."""

    name: Name | None = None
    """A new name."""

    lr: NonNegative | None = None
    """A new base rate: the same as `{"optimizer": {"lr": …}}`."""

    optimizer: dict[str, Any] | None = None
    """Hyperparameters to change; the others stay."""

    scheduler: Scheduler | None = None
    """A new schedule, which starts at its step 0; null ends the old one."""

    weight_decay_scheduler: Scheduler | None = None
    """A new schedule of the weight decay, likewise."""

    freeze: FewPatterns = Field(default_factory=list)
    """New patterns instead of the old ones; none steps every tensor again."""

    accumulate: Accumulate | None = None
    """New accumulation, where nothing is accumulated; null ends it."""

    clip: AnyClip | None = None
    """New clipping; null ends it."""

    on_nonfinite: Literal["reject", "skip"] = "reject"
    """A new policy."""

    retain: Retain = "none"
    """A new limit of how far back the session can be rewound."""

    @field_validator("lr", "optimizer")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("cannot be null; leave it out to keep what it is")
        return value


class ConfigPatch(Changes):
    """A change of a session's configuration, from the next step on."""

    @model_validator(mode="after")
    def _not_empty(self) -> ConfigPatch:
        if not self.model_fields_set:
            raise ValueError("changes nothing; send at least one field")
        return self


class ForkConfig(Changes):
    """What a fork does otherwise than the session that it comes from."""

    durability: Literal["step", "relaxed"] = "step"
    """When a step of the fork is acknowledged."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The optimizer of each group, and the group of each tensor."""

    optimizers: Sequence[Optimizer]
    """Group 0 first."""

    members: Sequence[ParamGroup]
    """The groups behind group 0, as they were asked for."""

    freeze: Sequence[str] = ()
    """Patterns of tensors that are not stepped."""

    def index(self, name: str) -> int:
        """Return the group of a tensor: the first that matches, otherwise 0."""
        numbered = enumerate(self.members, start=1)
        return next((i for i, group in numbered if group.matches(name)), 0)

    def check(self, names: Collection[str]) -> None:
        """Raise unless every pattern matches a tensor.

        Raises:
            InvalidConfig: one matches none.
        """
        patterns = [
            (pointer("param_groups", i, "match", j), text)
            for i, group in enumerate(self.members)
            for j, text in enumerate(group.match)
        ]
        patterns += [(pointer("freeze", i), text) for i, text in enumerate(self.freeze)]
        faults = [
            Fault(at, f"{text[:64]!r} matches no tensor")
            for at, text in patterns
            if not any(glob(text).fullmatch(name) for name in names)
        ]
        if faults:
            raise InvalidConfig(*faults)

    def assign(self, names: Iterable[str]) -> dict[str, int]:
        """Return each tensor's group.

        Raises:
            InvalidConfig: a pattern matches no tensor.
        """
        names = list(names)
        self.check(names)
        return {name: self.index(name) for name in names}

    def frozen(self, names: Iterable[str]) -> frozenset[str]:
        """Return the tensors that are not stepped."""
        return frozenset(name for name in names if _matched(self.freeze, name))


@lru_cache(maxsize=4096)
def glob(pattern: str) -> re.Pattern[str]:
    """Compile a pattern in which `*` and `?` are wild and all else is literal."""
    fixed = [re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", pattern)]
    if len(fixed) == 1:
        return re.compile(fixed[0], re.DOTALL)
    first, *middle, last = fixed
    # What stands between two stars is taken where it first fits and never tried
    # again: with backtracking eight stars and 60 letters took half a minute.
    within = "".join(f"(?>.*?{part})" for part in middle)
    return re.compile(f"{first}{within}.*{last}", re.DOTALL)


def _matched(patterns: Sequence[str], name: str) -> bool:
    """Whether one of the patterns matches the tensor's name."""
    return any(glob(pattern).fullmatch(name) for pattern in patterns)


def resolve(config: SessionConfig) -> Groups:
    """Return the optimizers of all groups, each override validated.

    Raises:
        InvalidConfig: an override is no hyperparameter or has a wrong value, or a
            schedule moves what the optimizer does not have.
    """
    if faults := list(_unusable_schedules(config)):
        raise InvalidConfig(*faults)
    optimizers = [config.optimizer]
    for i, group in enumerate(config.param_groups):
        overrides = group.__pydantic_extra__
        if "type" in overrides:
            at = pointer("param_groups", i, "type")
            detail = "a group with an optimizer of its own names it in optimizer; leave it out"
            raise InvalidConfig(Fault(at, detail))
        if group.optimizer is None:
            optimizers.append(_changed(config.optimizer, overrides, ("param_groups", i)))
            continue
        if overrides:
            at = pointer("param_groups", i, min(overrides))
            raise InvalidConfig(Fault(at, "belongs into optimizer, which the group has of its own"))
        optimizers.append(group.optimizer)
    return Groups(optimizers, config.param_groups, config.freeze)


def _unusable_schedules(config: SessionConfig) -> Iterator[Fault]:
    """Yield what keeps the schedules from doing anything."""
    rates, decays = config.scheduler, config.weight_decay_scheduler
    own = [group.optimizer for group in config.param_groups if group.optimizer is not None]
    optimizers = [config.optimizer, *own]
    if rates is not None and rates.needs_metrics and config.schedule_on != "epoch":
        kind = rates.kind_name()
        why = f'{kind} follows a metric, which epochs bring; it needs "schedule_on": "epoch"'
        yield Fault("/scheduler", why)
    if rates is not None and rates.moves_momentum and (lacks := _lacking("momentum", optimizers)):
        why = f"it moves the momentum, and {lacks} has none; set cycle_momentum to false"
        yield Fault("/scheduler", why)
    if decays is None:
        return
    if lacks := _lacking("weight_decay", optimizers):
        yield Fault("/weight_decay_scheduler", f"{lacks} has no weight_decay")
    if decays.needs_metrics:
        why = f"{decays.kind_name()} follows a metric, which moves the rate alone"
        yield Fault("/weight_decay_scheduler", why)
    if decays.moves_momentum:
        why = "it would move the momentum, too; set cycle_momentum to false"
        yield Fault("/weight_decay_scheduler", why)


def _lacking(hyperparameter: str, optimizers: Iterable[Optimizer]) -> str | None:
    """Return the first kind that does not have a hyperparameter, if there is one."""
    return next((o.kind_name() for o in optimizers if not o.has(hyperparameter)), None)


def patched(config: SessionConfig, patch: Changes, *, stepped: bool) -> SessionConfig:
    """Return the configuration after `patch`.

    Args:
        config: the present one.
        patch: only the fields that were sent count.
        stepped: whether slots exist, which fixes what decides their form.

    Raises:
        InvalidConfig: a value is wrong, or cannot change any more.
    """
    sent = patch.model_fields_set
    changes: dict[str, Any] = {field: getattr(patch, field) for field in sent}
    changes.pop("lr", None)
    changes.pop("optimizer", None)
    hyperparameters = dict(patch.optimizer or {})
    if patch.lr is not None and hyperparameters.setdefault("lr", patch.lr) != patch.lr:
        raise InvalidConfig(Fault("/lr", "differs from /optimizer/lr; send one of them"))
    old = config.optimizer
    if hyperparameters.setdefault("type", old.kind_name()) != old.kind_name():
        raise InvalidConfig(Fault("/optimizer/type", f"cannot change from {old.kind_name()}"))
    new = _changed(old, hyperparameters, ("optimizer",))
    for field in sorted(old.fixed) if stepped else ():
        if getattr(new, field) != getattr(old, field):
            at = pointer("optimizer", field)
            raise InvalidConfig(Fault(at, "cannot change once the session has stepped"))
    return config.model_copy(update={**changes, "optimizer": new})


def _changed(
    optimizer: Optimizer, overrides: dict[str, Any], at: tuple[str | int, ...]
) -> Optimizer:
    """Return `optimizer` with `overrides`, validated by its class."""
    try:
        return type(optimizer).model_validate({**optimizer.model_dump(), **overrides})
    except ValidationError as error:
        raise InvalidConfig(*faults_of(error, *at)) from None


def faults_of(error: ValidationError, *at: str | int) -> list[Fault]:
    """Return pydantic's errors as faults, about a value that stands at the path `at`."""
    return [
        Fault(pointer(*at, *item["loc"]), item["msg"].removeprefix("Value error, "))
        for item in error.errors()
    ]
