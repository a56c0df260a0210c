"""What a log means: tensors, their slots and counters, and where the session stands.

A `State` is made from a snapshot or from nothing, and then changed by
`transitions.advance` only, live and in replay alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from gradstep_server.errors import Fault, pointer
from gradstep_server.optimizers import Compute, FloatArray, Optimizer, Scalars, Shape
from gradstep_server.schedulers import NOTHING, Followed, RateError
from gradstep_server.sessions.config import Groups, SessionConfig, resolve
from gradstep_server.sessions.errors import InvalidConfig, InvalidTensors
from gradstep_server.sessions.tensor_state import TensorState
from gradstep_server.sessions.tensors import DType, Tensor, Tensors, elements, narrow_into

PARAMS = "params"
"""What a parameter's master is called among the tensors of a state: `params/<name>`."""

GRAD_SUM = "grad_sum"
"""What the sum of a parameter's gradients is called, while they are accumulated."""

MAX_NAME = 512
"""The longest name of a tensor, in characters."""

NO_SCALARS: Mapping[str, Scalars] = MappingProxyType({})
"""The scalars of tensors whose optimizers keep none."""


@dataclass(slots=True)
class State:
    """A session right after entry `seq` of its log."""

    config: SessionConfig
    groups: Groups
    seq: int = 0
    step: int = 0
    updates: int = 0
    """How many of the steps were updates, and so moved the schedules on."""

    accumulated: int = 0
    """How many steps were added up since the last update."""

    epoch: int = 0
    generation: int = 1
    origin: int = 0
    """The step (or epoch) at which the present schedule began."""

    decay_origin: int = 0
    """The step (or epoch) at which the present schedule of the weight decay began."""

    followed: Followed = NOTHING
    """What the present schedule keeps of the metrics of epochs, if it follows them."""

    updated_at: float = 0.0
    seal: bytes = b""
    """The seal of entry `seq`, by which a writer proves that it knows the log."""

    tensors: dict[str, TensorState] = field(default_factory=dict)

    frozen: frozenset[str] = frozenset()
    """The tensors that are not stepped."""

    flat: dict[str, FloatArray] = field(default_factory=dict)
    """The masters of all tensors in one array, by `PARAMS`, and each slot likewise."""

    @classmethod
    def new(cls, config: SessionConfig, created_at: float) -> State:
        """Return the state of an empty log."""
        return cls(config, resolve(config), updated_at=created_at)

    @property
    def master(self) -> DType:
        """The dtype of all masters and slots."""
        return self.config.dtype.master

    @property
    def elements(self) -> int:
        """The number of elements of all parameters."""
        return sum(tensor.values.size for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """The memory of masters and slots once every tensor has been stepped."""
        return self.footprint({name: tensor.shape for name, tensor in self.tensors.items()})

    def footprint(self, shapes: Mapping[str, Shape]) -> int:
        """Return the bytes of masters and slots of parameters of these shapes."""
        own = 1 + (self.config.per_update > 1)
        count = 0
        for name, shape in shapes.items():
            optimizer = self.groups.optimizers[self.groups.index(name)]
            count += own * elements(shape) + sum(
                map(elements, self._slots(optimizer, shape).values())
            )
        return count * self.master.storage.itemsize

    def _slots(self, optimizer: Optimizer, shape: Shape) -> Mapping[str, Shape]:
        """Return the slots that a parameter has, or will have once its momentum moves."""
        scheduler = self.config.scheduler
        late = scheduler is not None and scheduler.moves_momentum
        return _with_late(optimizer, shape) if late else optimizer.slots_of(shape)

    @property
    def stepped(self) -> bool:
        """Whether anything was stepped yet, which fixes the form of the slots."""
        return any(tensor.steps or tensor.slots for tensor in self.tensors.values())

    def optimizer(self, tensor: TensorState) -> Optimizer:
        """Return the optimizer of a tensor's group."""
        return self.groups.optimizers[tensor.group]

    def clock(self) -> int:
        """Return t, the schedule's own step, for the next optimizer step."""
        return self.position - self.origin

    @property
    def position(self) -> int:
        """How often what moves the schedules on has happened."""
        return self.epoch if self.config.schedule_on == "epoch" else self.updates

    def rates(self, t: int) -> list[float]:
        """Return each group's learning rate at the schedule's step t.

        Raises:
            InvalidConfig: the schedule has no rate that can be used.
        """
        bases = [optimizer.lr for optimizer in self.groups.optimizers]
        scheduler = self.config.scheduler
        if scheduler is None:
            return bases
        try:
            return [scheduler.lr(t, base, self.followed) for base in bases]
        except RateError as error:
            raise InvalidConfig(Fault("/scheduler", str(error))) from None

    def momentum(self) -> float | None:
        """Return the momentum that the schedule sets for the next step, None if it sets none."""
        scheduler = self.config.scheduler
        if scheduler is None or not scheduler.moves_momentum:
            return None
        return scheduler.momentum(self.clock())

    def weight_decays(self, ahead: int = 0) -> list[float] | None:
        """Return each group's weight decay where a schedule moves it.

        Args:
            ahead: how often the schedules move on before.

        Raises:
            InvalidConfig: the schedule has no value that can be used.
        """
        scheduler = self.config.weight_decay_scheduler
        if scheduler is None:
            return None
        t = self.position + ahead - self.decay_origin
        try:
            return [
                scheduler.lr(t, optimizer.model_dump()["weight_decay"])
                for optimizer in self.groups.optimizers
            ]
        except RateError as error:
            raise InvalidConfig(Fault("/weight_decay_scheduler", str(error))) from None

    def usable(self) -> State:
        """Return this state, or raise if its schedules have nothing for the next step.

        Raises:
            InvalidConfig: a schedule has no value that can be used.
        """
        self.rates(self.clock())
        self.weight_decays()
        return self

    def params(
        self,
        dtype: DType | None = None,
        room: memoryview | None = None,
        compute: Compute | None = None,
    ) -> dict[str, Tensor]:
        """Return the parameters rounded to `dtype`, or the session's; the bytes are a copy.

        Args:
            dtype: of what is returned.
            room: where the copy goes, as large as it; by default new memory.
            compute: shares the work among threads.
        """
        dtype = dtype or self.config.dtype
        width = dtype.storage.itemsize
        masters = self.flat.get(PARAMS, np.empty(0, self.master.storage))
        data = np.empty(width * masters.size, np.uint8).data if room is None else room
        rounded = np.ndarray((masters.size,), dtype.storage, data)

        def copy(start: int, stop: int) -> None:
            narrow_into(rounded[start:stop], masters[start:stop], dtype)

        if compute is None:
            copy(0, masters.size)
        else:
            compute.share(masters.size, copy)
        return {
            name: Tensor(dtype, tensor.shape, data[width * tensor.start : width * tensor.stop])
            for name, tensor in self.tensors.items()
        }

    def dump(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return everything, as JSON and as views of the tensors by `<slot>/<name>`."""
        tensors = {}
        for name, tensor in self.tensors.items():
            tensors[f"{PARAMS}/{name}"] = Tensor.of(tensor.values, tensor.shape, self.master)
            shapes = _with_late(self.optimizer(tensor), tensor.shape)
            for slot, values in tensor.slots.items():
                tensors[f"{slot}/{name}"] = Tensor.of(values, shapes[slot], self.master)
            if tensor.summed:
                total = Tensor.of(self.add_sum(tensor), tensor.shape, self.master)
                tensors[f"{GRAD_SUM}/{name}"] = total
        counters = {name: tensor.steps for name, tensor in self.tensors.items()}
        return {**self.facts(), "counters": counters, "scalars": self.scalars}, tensors

    @property
    def scalars(self) -> dict[str, dict[str, float]]:
        """Return the scalars of each tensor that has some."""
        return {name: dict(t.scalars) for name, t in self.tensors.items() if t.scalars}

    def facts(self) -> dict[str, Any]:
        """Return everything but the tensors and their counters, as JSON."""
        return {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "updates": self.updates,
            "accumulated": self.accumulated,
            "epoch": self.epoch,
            "generation": self.generation,
            "origin": self.origin,
            "decay_origin": self.decay_origin,
            "followed": asdict(self.followed),
            "updated_at": self.updated_at,
        }

    def check(
        self,
        tensors: Tensors,
        counters: Mapping[str, int],
        scalars: Mapping[str, Scalars] = NO_SCALARS,
    ) -> None:
        """Raise unless `fill` can take these tensors, counters and scalars.

        Raises:
            InvalidConfig: a group's pattern matches no parameter.
            InvalidTensors: a dtype is too wide, or a slot or a scalar fits no parameter.
        """
        found = _by_name(tensors)
        for name in counters.keys() - found.keys():
            raise _misfit("counts the steps of no tensor", "counters", name)
        for name in scalars.keys() - found.keys():
            raise _misfit("belongs to no tensor", "scalars", name)
        groups = self.groups.assign(found)
        for name, slots in found.items():
            optimizer = self.groups.optimizers[groups[name]]
            kept = scalars.get(name, {})
            stepped = len(slots) > 1 or counters.get(name, 0) > 0 or bool(kept)
            _check_scalars(name, kept, optimizer, stepped=stepped)
            _check(name, slots, optimizer, self.master, stepped=stepped)

    def fill(
        self,
        tensors: Tensors,
        counters: Mapping[str, int],
        scalars: Mapping[str, Scalars] = NO_SCALARS,
    ) -> None:
        """Set all that is kept of the tensors of an empty session from `<slot>/<name>`."""
        found = _by_name(tensors)
        self.lay_out({name: slots[PARAMS].shape for name, slots in found.items()})
        for name, tensor in self.tensors.items():
            tensor.steps = counters.get(name, 0)
            tensor.scalars = scalars.get(name, {})
            for slot, values in found[name].items():
                values.widen_into(tensor.values if slot == PARAMS else self.add_slot(tensor, slot))

    def lay_out(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Give an empty session parameters of these shapes, their values still to be set.

        They lie in memory by group and then by name: adjacent where a step does
        the same to them.
        """
        groups = self.groups.assign(shapes)
        starts: dict[str, int] = {}
        end = 0
        for name in sorted(shapes, key=lambda name: (groups[name], name)):
            starts[name] = end
            end += elements(shapes[name])
        masters: FloatArray = np.empty(end, self.master.storage)
        self.flat[PARAMS] = masters
        for name in sorted(shapes):
            shape, start = tuple(shapes[name]), starts[name]
            size = elements(shape)
            values = masters[start : start + size]
            self.tensors[name] = TensorState(name, groups[name], shape, start, size, values)
        self.frozen = self.groups.frozen(shapes)

    def add_slot(self, tensor: TensorState, slot: str) -> FloatArray:
        """Return a slot of a tensor, of zeros if it is new."""
        optimizer = self.optimizer(tensor)
        if optimizer.whole and slot not in tensor.slots:
            size = elements(optimizer.slots_of(tensor.shape)[slot])
            tensor.slots[slot] = np.zeros(size, self.master.storage)
        if optimizer.whole:
            return tensor.slots[slot]
        if slot not in self.flat:
            self.flat[slot] = np.zeros(self.flat[PARAMS].size, self.master.storage)
        return tensor.slots.setdefault(slot, self.flat[slot][tensor.start : tensor.stop])

    def add_sum(self, tensor: TensorState) -> FloatArray:
        """Return the sum of a tensor's gradients, of zeros if it is new."""
        if tensor.grad_sum is None:
            if GRAD_SUM not in self.flat:
                self.flat[GRAD_SUM] = np.zeros(self.flat[PARAMS].size, self.master.storage)
            tensor.grad_sum = self.flat[GRAD_SUM][tensor.start : tensor.stop]
        return tensor.grad_sum


def _with_late(optimizer: Optimizer, shape: Shape) -> dict[str, Shape]:
    """Return all slots that a parameter may have, those included that may come late."""
    return {**dict.fromkeys(optimizer.late_slots, shape), **optimizer.slots_of(shape)}


def _by_name(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a state by parameter and slot."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        slot, _, name = key.partition("/")
        found.setdefault(name, {})[slot] = tensor
    return found


def _check(
    name: str, slots: Tensors, optimizer: Optimizer, master: DType, *, stepped: bool
) -> None:
    """Raise unless these are one parameter with all the slots that it must have."""
    if not 0 < len(name) <= MAX_NAME or name == "__metadata__":
        detail = f"a name has 1 to {MAX_NAME} characters and is not __metadata__"
        raise _misfit(detail, PARAMS, name)
    given = slots.keys() - {PARAMS}
    if PARAMS not in slots:
        raise _misfit(f"there is no tensor {PARAMS}/{name}", *sorted(given)[:1], name)
    shape = slots[PARAMS].shape
    if unfit := optimizer.unfit(shape):
        raise _misfit(unfit, PARAMS, name)
    known = _with_late(optimizer, shape)
    if unknown := sorted(given - known.keys()):
        has = ", ".join(sorted(known)) or "none"
        raise _misfit(f"{optimizer.kind_name()} has no such slot; it has {has}", unknown[0], name)
    for slot, tensor in slots.items():
        if not tensor.dtype.widens_to(master):
            raise _misfit(f"the dtype {tensor.dtype} is wider than {master}", slot, name)
        if tensor.shape != (fits := known.get(slot, shape)):
            of = "the parameter's" if fits == shape else "its"
            raise _misfit(f"{of} shape is {list(fits)}", slot, name)
        finite = np.isfinite(tensor.widened(master))
        if not finite.all():
            raise _misfit(f"element {int(finite.argmin())} is not a finite number", slot, name)
    if stepped and (missing := sorted(known.keys() - optimizer.late_slots - given)):
        raise _misfit("is missing, though the tensor was stepped", missing[0], name)


def _check_scalars(name: str, kept: Scalars, optimizer: Optimizer, *, stepped: bool) -> None:
    """Raise unless these are the scalars that a parameter must have."""
    known = optimizer.scalars
    if unknown := sorted(kept.keys() - known.keys()):
        has = ", ".join(sorted(known)) or "none"
        detail = f"{optimizer.kind_name()} keeps no such number; it keeps {has}"
        raise _misfit(detail, "scalars", name, unknown[0])
    if stepped and (missing := sorted(known.keys() - kept.keys())):
        raise _misfit(f"{missing[0]} is missing, though the tensor was stepped", "scalars", name)
    for scalar, value in kept.items():
        if value > known[scalar]:
            raise _misfit(f"must be at most {known[scalar]}", "scalars", name, scalar)


def _misfit(detail: str, *path: str) -> InvalidTensors:
    return InvalidTensors(Fault(pointer(*path), detail))
