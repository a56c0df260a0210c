"""One parameter of a session: its masters, and everything that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradstep_server.optimizers import FloatArray, Scalars


@dataclass(slots=True)
class TensorState:
    """One parameter: its master values, and what its optimizer keeps for it."""

    name: str
    group: int
    shape: tuple[int, ...]
    start: int
    """Where it begins in the state's flat arrays."""

    size: int
    """The number of elements."""

    values: FloatArray
    """Flat masters, a view of the state's."""

    steps: int = 0
    """How often it was stepped; a step without its gradient does not count."""

    slots: dict[str, FloatArray] = field(default_factory=dict)
    """Views like `values`, by torch's names; made by the first step. Arrays of their own
    where the optimizer takes whole tensors, whose slots may have other sizes."""

    scalars: Scalars = field(default_factory=dict)
    """What the optimizer keeps beside them; made by the first step, never changed in place."""

    grad_sum: FloatArray | None = None
    """The sum of its gradients since the last update, a view like `values`."""

    summed: bool = False
    """Whether there was a gradient since the last update."""

    ahead: list[tuple[int, int]] = field(default_factory=list)
    """Where elements come from a snapshot, the end of each run of them and the
    entry that the run includes; both rise."""

    @property
    def stop(self) -> int:
        """Where it ends in the state's flat arrays."""
        return self.start + self.size

    def behind(self, seq: int) -> int | None:
        """Return how many leading elements do not include entry `seq` yet; None if all do."""
        if self.ahead and self.ahead[-1][1] < seq:
            self.ahead.clear()
        if not self.ahead:
            return self.values.size
        return max((stop for stop, included in self.ahead if included < seq), default=None)
