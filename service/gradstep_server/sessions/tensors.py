"""Tensors as they travel and as they are stored: a dtype, a shape, and bytes.

Arithmetic happens on *masters*: float64 for F64, float32 for everything else.
Widening to a master is exact; narrowing rounds to nearest, ties to even.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep_server.optimizers import FloatArray, round_to_bfloat16


class DType(StrEnum):
    """An element type, by its name in safetensors."""

    F64 = "F64"
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the bytes; NumPy has no bfloat16, so its bits are integers."""
        return _STORAGE[self]

    @property
    def master(self) -> DType:
        """The dtype that values of this one are kept and computed in."""
        return DType.F64 if self is DType.F64 else DType.F32

    def narrows_to(self, other: DType) -> bool:
        """Whether values of this dtype may be rounded to `other` to be shorter on the way.

        It is half as wide: to a quarter, they would be rounded twice.
        """
        return other is self or 2 * other.storage.itemsize == self.storage.itemsize

    def widens_to(self, master: DType) -> bool:
        """Whether every value of this dtype is a value of `master`, exactly."""
        return self.master is master or master is DType.F64


_STORAGE: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype("<f8"),
    DType.F32: np.dtype("<f4"),
    DType.F16: np.dtype("<f2"),
    DType.BF16: np.dtype("<u2"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: little-endian bytes in C order, not necessarily aligned."""

    dtype: DType
    shape: tuple[int, ...]
    data: memoryview

    @property
    def size(self) -> int:
        """The number of elements."""
        return elements(self.shape)

    def stored(self) -> NDArray[np.generic]:
        """Return the bytes as a flat array of the storage dtype, without a copy."""
        return np.ndarray((self.size,), self.dtype.storage, self.data)

    def widened(self, master: DType) -> FloatArray:
        """Return the values as a flat, aligned array of `master`.

        It is a view of the bytes where they are that already.
        """
        if self.dtype is master:
            values: FloatArray = np.ndarray((self.size,), master.storage, self.data)
            if values.flags.aligned and values.flags.writeable:
                return values
        values = np.empty(self.size, master.storage)
        self.widen_into(values)
        return values

    def widen_into(self, values: FloatArray) -> None:
        """Write the values into a flat array of a dtype that holds them exactly."""
        stored = self.stored()
        if self.dtype is DType.BF16:
            bits = values if values.dtype == np.float32 else np.empty(self.size, np.float32)
            np.left_shift(stored, 16, out=bits.view(np.uint32), dtype=np.uint32)
            stored = bits
        if stored is not values:
            with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
                np.copyto(values, stored)

    @classmethod
    def of(cls, values: FloatArray, shape: tuple[int, ...], dtype: DType) -> Tensor:
        """Round masters to `dtype`; without a copy where they are of it already."""
        rounded = to_bfloat16(values) if dtype is DType.BF16 else _cast(values, dtype)
        return cls(dtype, shape, rounded.view(np.uint8).data)


Tensors = Mapping[str, Tensor]


def elements(shape: Iterable[int]) -> int:
    """Return the number of elements of a tensor of this shape."""
    return math.prod(shape)


def total_size(tensors: Tensors) -> int:
    """Return the number of elements of all tensors."""
    return sum(tensor.size for tensor in tensors.values())


def narrow_into(rounded: NDArray[Any], values: FloatArray, dtype: DType) -> None:
    """Write masters, rounded to `dtype`, into an array of its storage."""
    if dtype is DType.BF16:
        round_to_bfloat16(rounded, values.view(np.uint32))
    elif rounded.dtype == values.dtype:
        np.copyto(rounded, values)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # as in `_cast`
            np.copyto(rounded, values, casting="same_kind")


def _cast(values: FloatArray, dtype: DType) -> NDArray[np.generic]:
    # Beyond the range is infinity, as IEEE rounds; a signalling NaN is a NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype.storage, copy=False)


def to_bfloat16(values: FloatArray) -> NDArray[np.uint16]:
    """Return the bits of `values` (float32) as bfloat16: nearest, ties to even."""
    bits = np.empty(values.size, np.uint16)
    round_to_bfloat16(bits, values.view(np.uint32))
    return bits
