"""What an optimizer is: hyperparameters, slots of state, and one rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

from gradstep_server.kinds import Flag, Kind, NonNegative
from gradstep_server.optimizers.compute import Rule

Shape = tuple[int, ...]
"""The lengths of a tensor's axes."""

Scalars = Mapping[str, float]
"""Numbers that are kept of one tensor, by torch's names."""


class Due(NamedTuple):
    """What a step does to tensors that are stepped alike, beside what is in arrays."""

    coefficients: tuple[float, ...]
    """What the rule takes, in the order of its parameters."""

    scalars: Scalars
    """The scalars that the tensors have afterwards."""


class Optimizer(Kind):
    """The base of every optimizer class.

    A step of one tensor is
    ``rule(param, grad, *slots, scale, bound, *coefficients)``, in place, where
    `coefficients` were computed once per step in Python floats. They hold all
    that comes from libm, such as ``1 - beta ** step``: the log records them,
    so that replay is bit-identical on any machine.
    """

    lr: NonNegative = 1e-3
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    maximize: Flag = False
    """Ascend instead of descend: the gradient is negated before decay is added."""

    squares_gradient: ClassVar[bool]
    """Whether a slot holds gradients squared, so that large ones overflow in it."""

    late_slots: ClassVar[frozenset[str]] = frozenset()
    """Slots that may first appear after some steps, and stay when they are not used
    any more, as when SGD's momentum is switched on and off."""

    whole: ClassVar[bool] = False
    """Whether the rule takes a whole tensor with its shape, as `matrices` makes it, and
    not any elements of any tensors."""

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that cannot change once a session has stepped."""

    scalars: ClassVar[Scalars] = MappingProxyType({})
    """Numbers that are kept of each tensor because they follow from more than its step,
    by torch's names, with the largest that each may be; none is below 0."""

    @classmethod
    def has(cls, hyperparameter: str) -> bool:
        """Whether this class has a hyperparameter; betas are a momentum, too."""
        fields = cls.model_fields
        return hyperparameter in fields or (hyperparameter == "momentum" and "betas" in fields)

    def moved(self, momentum: float | None, weight_decay: float | None = None) -> Self:
        """Return this optimizer with what schedules set for a step.

        Args:
            momentum: the momentum, or the first of the betas; None keeps its own.
            weight_decay: the weight decay; None keeps its own.
        """
        changes: dict[str, Any] = {}
        if weight_decay is not None:
            changes["weight_decay"] = weight_decay
        if momentum is not None and "betas" in type(self).model_fields:
            changes["betas"] = (momentum, *self.model_dump()["betas"][1:])
        elif momentum is not None:
            changes["momentum"] = momentum
        return self.model_copy(update=changes) if changes else self

    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Return the names of the state that a step needs, torch's names."""

    def slots_of(self, shape: Shape) -> Mapping[str, Shape]:
        """Return the slots of a parameter of this shape, each with its own shape."""
        return dict.fromkeys(self.slots(), shape)

    def unfit(self, shape: Shape) -> str | None:  # noqa: ARG002 - most step every tensor
        """Return why a parameter of this shape cannot be stepped, None if it can."""
        return None

    @abstractmethod
    def rule(self) -> Rule:
        """Return the compiled loop."""

    def rule_of(self, shape: Shape) -> Rule:  # noqa: ARG002 - most have one rule for every tensor
        """Return the compiled loop for a parameter of this shape."""
        return self.rule()

    @abstractmethod
    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:
        """Return what the rule needs besides arrays, in the order of its parameters.

        Args:
            lr: the learning rate of this step.
            step: how often the tensor will have been stepped after this step, from 1.
            fresh: whether the tensor's slots are new and hold zeros.

        A class that keeps scalars takes them by name, too, as they were before
        the step. Their defaults are what the first step begins with.
        """

    def next_scalars(self, lr: float, step: int) -> Scalars:  # noqa: ARG002 - most keep none
        """Return the scalars after a step; a class that keeps some takes those before by name."""
        return {}

    def due(self, lr: float, step: int, *, fresh: bool, scalars: Scalars) -> Due:
        """Return what a step does to tensors of which these scalars are kept."""
        coefficients = self.coefficients(lr, step, fresh=fresh, **scalars)
        return Due(coefficients, self.next_scalars(lr, step, **scalars))
