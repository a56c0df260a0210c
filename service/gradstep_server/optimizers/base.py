"""What an optimizer is: hyperparameters, slots of state, and one rule."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

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
