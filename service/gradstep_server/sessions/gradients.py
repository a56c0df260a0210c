"""The gradients of a step beside what they step, in as few runs as are worth making.

Tensors of one group whose counters agree take the same coefficients. Where
they are adjacent in memory, and their gradients are too, they are stepped as if
they were one tensor: a hundred small ones cost one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ctypes import addressof, c_char
from typing import NamedTuple, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gradstep_server.optimizers import BLOCK, FloatArray, Optimizer
from gradstep_server.optimizers.clipping import scale_parts
from gradstep_server.sessions.state import State
from gradstep_server.sessions.tensor_state import TensorState
from gradstep_server.sessions.tensors import DType, Tensor, Tensors

_SMALL = 16_384
"""Elements that are copied to their neighbours sooner than they are stepped alone."""

Key = tuple[int, int, bool, tuple[tuple[str, float], ...]]
"""What tensors share coefficients: the group, the counter, whether slots are new, and the
scalars that are kept of them."""


class Run(NamedTuple):
    """Adjacent tensors with one key, and their gradients."""

    key: Key
    tensors: list[TensorState]
    size: int
    """How many leading elements are to be stepped; a snapshot may include the others."""

    values: FloatArray
    """The gradients of all elements, widened to masters."""

    @property
    def span(self) -> slice:
        """Where the elements to be stepped lie in the session's flat arrays."""
        start = self.tensors[0].start
        return slice(start, start + self.size)

    def parts(self) -> Iterator[tuple[TensorState, FloatArray]]:
        """Yield each tensor with its gradient."""
        first = self.tensors[0].start
        for tensor in self.tensors:
            yield tensor, self.values[tensor.start - first : tensor.stop - first]

    def scaled(self, scales: Mapping[str, FloatArray]) -> Run:
        """Return the run with the gradients of some tensors scaled, part by part.

        Args:
            scales: by tensor, one for each of its parts.
        """
        if not scales or not any(tensor.name in scales for tensor in self.tensors):
            return self
        run = self._replace(values=self.values.copy())
        for tensor, gradient in run.parts():
            if tensor.name in scales:
                scale_parts(gradient, scales[tensor.name])
        return run

    def cuts(self) -> list[int]:
        """Return where each block of each tensor begins in `values`, and the end.

        No block spans two tensors, so that a sum by blocks does not depend on
        which of them are adjacent.
        """
        first = self.tensors[0].start
        cuts: list[int] = []
        for tensor in self.tensors:
            start = tensor.start - first
            if tensor.size <= BLOCK:
                cuts.append(start)
            else:
                cuts.extend(range(start, start + tensor.size, BLOCK))
        cuts.append(self.values.size)
        return cuts


class Gradients(dict[str, Tensor]):
    """The gradients of one step, by name, with what its plan has made of them."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__(tensors)
        self._kept: tuple[State, int, list[Run]] | None = None

    def keep(self, state: State, seq: int, runs: list[Run]) -> None:
        """Keep the runs of the step that becomes entry `seq`."""
        self._kept = state, seq, runs

    def taken(self, state: State, seq: int) -> list[Run] | None:
        """Return what was kept for entry `seq`, if anything, and keep it no longer."""
        kept, self._kept = self._kept, None
        return kept[2] if kept is not None and kept[0] is state and kept[1] == seq else None


def runs_of(state: State, tensors: Tensors, optimizers: Sequence[Optimizer], seq: int) -> list[Run]:
    """Return what each group's optimizer steps as entry `seq`, in the order of the arrays."""
    master = state.master
    width = master.storage.itemsize
    slots = [frozenset(optimizer.slots()) for optimizer in optimizers]
    draft: _Draft | None = None
    drafts: list[_Draft] = []
    pairs = [(state.tensors[name], tensors[name]) for name in sorted(tensors)]
    pairs.sort(key=_start)
    for tensor, gradient in pairs:
        optimizer = optimizers[tensor.group]
        count = tensor.behind(seq) if tensor.ahead else tensor.size
        if count is None:
            continue
        whole = optimizer.whole
        needed = optimizer.slots_of(tensor.shape).keys() if whole else slots[tensor.group]
        fresh = not tensor.slots.keys() >= needed
        key = tensor.group, tensor.steps, fresh, tuple(tensor.scalars.items())
        joins = count == tensor.size and not whole
        address = _address(gradient, master, width)
        if not (draft and joins and key == draft.key and draft.takes(tensor, gradient, address)):
            draft = _Draft(key, count, tensor, gradient, address)
            drafts.append(draft)
    return [draft.run(master) for draft in drafts]


def _start(pair: tuple[TensorState, Tensor]) -> int:
    return pair[0].start


def _address(gradient: Tensor, master: DType, width: int) -> int | None:
    """Return where the bytes begin, or None if they are no array of `master` as they lie."""
    data = gradient.data
    if gradient.dtype is not master or data.readonly or not data:
        return None
    address = addressof(c_char.from_buffer(data))
    return None if address % width else address


class _Draft:
    """A run that may still take in the next tensor."""

    def __init__(
        self, key: Key, count: int, tensor: TensorState, gradient: Tensor, address: int | None
    ) -> None:
        self.key = key
        self._count = count
        self._tensors = [tensor]
        self._gradients = [gradient]
        # Where the next tensor has to begin: none does within one that is stepped in part.
        self._stop = tensor.start + count
        self._copied = address is None
        self._end = 0 if address is None else address + len(gradient.data)
        self._buffer = gradient.data.obj

    def takes(self, tensor: TensorState, gradient: Tensor, address: int | None) -> bool:
        """Take in a tensor with the same key, if it is better stepped together with the others."""
        size = tensor.size
        if tensor.start != self._stop:
            return False
        data = gradient.data
        if address == self._end and data.obj is self._buffer:
            self._end = address + len(data)
        elif (address is None or size <= _SMALL) and (self._copied or self._count <= _SMALL):
            self._copied, self._end = True, 0
        elif size:
            return False
        self._tensors.append(tensor)
        self._gradients.append(gradient)
        self._count += size
        self._stop += size
        return True

    def run(self, master: DType) -> Run:
        """Return the run, its gradients in one array."""
        return Run(self.key, self._tensors, self._count, self._values(master))

    def _values(self, master: DType) -> FloatArray:
        if not self._copied:
            first = self._gradients[0].widened(master)
            if len(self._gradients) == 1:
                return first
            # The others lie behind it in the same buffer, which a view of it holds.
            return cast("FloatArray", as_strided(first, (self._count,), first.strides))
        values: FloatArray = np.empty(sum(tensor.size for tensor in self._tensors), master.storage)
        start = 0
        for gradient in self._gradients:
            stop = start + gradient.size
            gradient.widen_into(values[start:stop])
            start = stop
        return values
