"""What clipping does to gradients, and the reductions over them that it needs.

What a reduction yields is recorded in the log and never computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradstep_server.optimizers.compute import Compute, FloatArray

_LARGEST = {np.dtype(dtype): float(np.finfo(dtype).max) for dtype in (np.float32, np.float64)}


@dataclass(frozen=True, slots=True)
class Clipping:
    """What clipping does to the gradients of one step."""

    scale: float
    """What every element is multiplied by."""

    bound: float
    """What every element's magnitude is then held within; infinite for none."""

    clipped: bool
    """Whether that changes anything."""

    scales: Mapping[str, FloatArray] = field(default_factory=dict)
    """What each of a tensor's equal parts is multiplied by, by its name; tensors that
    are not clipped by themselves are left out."""


@dataclass(frozen=True, slots=True)
class Present:
    """A tensor that has a gradient in a step, both flat."""

    name: str
    shape: tuple[int, ...]
    values: FloatArray
    gradient: FloatArray


class Measured(NamedTuple):
    """The finite gradients of a step, for clipping to look at."""

    norm: float
    """Their global L2 norm."""

    arrays: Sequence[FloatArray]
    """All of them, several tensors to an array."""

    tensors: Iterable[Present]
    """All of them, tensor by tensor; to be gone through once."""

    compute: Compute
    """Runs reductions."""


def tensor_norm(gradient: FloatArray, compute: Compute) -> float:
    """Return the L2 norm in float64, NaN or infinite if an element is.

    Finite float64 elements whose squares overflow are scaled first.
    """
    total = compute.sum_of_squares(gradient)
    if math.isfinite(total):
        return math.sqrt(total)
    top = peak(gradient)
    if not math.isfinite(top):
        return top
    return top * math.sqrt(compute.sum_of_squares(gradient / top))


def part_norms(x: FloatArray, parts: int, compute: Compute) -> NDArray[np.float64]:
    """Return the L2 norm in float64 of each of so many equal parts, as `tensor_norm` does."""
    if parts == 1:
        return np.array([tensor_norm(x, compute)])
    cuts = range(0, x.size + 1, x.size // parts)
    norms: NDArray[np.float64] = np.sqrt(compute.sums_of_squares(x, cuts))
    for i in np.flatnonzero(~np.isfinite(norms)):
        norms[i] = tensor_norm(x[cuts[i] : cuts[i + 1]], compute)
    return norms


def scale_parts(gradient: FloatArray, scales: FloatArray) -> None:
    """Multiply each of the gradient's equal parts by its scale, in place."""
    parts = gradient.reshape(scales.size, -1)
    parts *= scales[:, np.newaxis]


def largest(dtype: np.dtype[Any]) -> float:
    """Return the largest finite number of a masters' dtype."""
    return _LARGEST[dtype]


def largest_usable(dtype: np.dtype[Any], applied: Clipping | None, *, squared: bool) -> float:
    """Return the largest finite magnitude of an element that a step may use.

    Where a slot squares the gradient, an element is unusable whose square, after
    clipping, overflows the dtype: in Adam it would make v infinite and freeze
    the element for ever.

    Args:
        dtype: the gradient's.
        applied: the clipping; None if the global norm is not finite.
        squared: whether a slot squares the gradient.
    """
    if not squared:
        return math.inf
    limit = math.sqrt(largest(dtype))
    if applied is None:
        return limit
    harmless = applied.bound <= limit or not applied.scale
    return math.inf if harmless else limit / applied.scale


def first_unusable(
    gradient: FloatArray, norm: float, applied: Clipping | None, *, squared: bool
) -> int | None:
    """Return the index of the first element that no step may use, or None.

    NaN and infinity are unusable, and what is larger than `largest_usable`.

    Args:
        gradient: flat.
        norm: the gradient's own norm, by which most need no second look.
        applied: the clipping; None if the global norm is not finite.
        squared: whether a slot squares the gradient.
    """
    limit = largest_usable(gradient.dtype, applied, squared=squared)
    if math.isfinite(norm) and norm <= limit:
        return None
    unusable = ~np.isfinite(gradient) | (np.abs(gradient) > limit)
    return int(np.argmax(unusable)) if unusable.any() else None


def peak(gradient: FloatArray) -> float:
    """Return the largest magnitude of an element, NaN if one is."""
    return max(float(gradient.max()), -float(gradient.min()))
