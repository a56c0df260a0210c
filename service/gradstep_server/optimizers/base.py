"""What an optimizer is: hyperparameters, slots of state, and one rule."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

from gradstep_server.kinds import Flag, Kind, NonNegative
from gradstep_server.optimizers.compute import Rule


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

    fixed: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that cannot change once a session has stepped."""

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

    @abstractmethod
    def rule(self) -> Rule:
        """Return the compiled loop."""

    @abstractmethod
    def coefficients(self, lr: float, step: int, *, fresh: bool) -> tuple[float, ...]:
        """Return what the rule needs besides arrays, in the order of its parameters.

        Args:
            lr: the learning rate of this step.
            step: how often the tensor will have been stepped after this step, from 1.
            fresh: whether the tensor's slots are new and hold zeros.
        """
