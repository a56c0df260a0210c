"""Clipping, and the reductions over gradients that it needs.

Source: torch.nn.utils.clip_grad_norm_ and clip_grad_value_; the norm here is
accumulated in float64, where torch's own float32 norm is off by 1e-5 at a
million elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from gradstep_server.kinds import Positive
from gradstep_server.optimizers.compute import Compute, FloatArray

TORCH_EPS = 1e-6
"""What clip_grad_norm_ adds to the norm that it divides by."""


class _ClipModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ClipNorm(_ClipModel):
    """Scale all gradients of a step so that their global L2 norm is at most `max_norm`."""

    type: Literal["norm"]

    max_norm: Positive
    """The largest norm, over the present tensors of all groups."""


class ClipValue(_ClipModel):
    """Hold every element of the gradients within ±`value`."""

    type: Literal["value"]

    value: Positive
    """The largest magnitude of an element."""


_LARGEST = {np.dtype(dtype): float(np.finfo(dtype).max) for dtype in (np.float32, np.float64)}

Clip = Annotated[ClipNorm | ClipValue, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class Clipping:
    """What clipping does to the gradients of one step."""

    scale: float
    """What every element is multiplied by."""

    bound: float
    """What every element's magnitude is then held within; infinite for none."""

    clipped: bool
    """Whether that changes anything."""


def tensor_norm(gradient: FloatArray, compute: Compute) -> float:
    """Return the L2 norm in float64, NaN or infinite if an element is.

    Finite float64 elements whose squares overflow are scaled first.
    """
    total = compute.sum_of_squares(gradient)
    if math.isfinite(total):
        return math.sqrt(total)
    peak = _peak(gradient)
    if not math.isfinite(peak):
        return peak
    return peak * math.sqrt(compute.sum_of_squares(gradient / peak))


def clipping(clip: Clip | None, norm: float, gradients: Iterable[FloatArray]) -> Clipping:
    """Return what `clip` does to finite gradients whose global norm is `norm`."""
    match clip:
        case ClipNorm(max_norm=max_norm):
            scale = min(max_norm / (norm + TORCH_EPS), 1.0)
            return Clipping(scale, math.inf, clipped=scale < 1)
        case ClipValue(value=value):
            clipped = any(g.size and _peak(g) > value for g in gradients)
            return Clipping(1.0, value, clipped)
        case None:
            return Clipping(1.0, math.inf, clipped=False)


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


def _peak(gradient: FloatArray) -> float:
    """Return the largest magnitude of an element, NaN if one is."""
    return max(float(gradient.max()), -float(gradient.min()))
