"""Small tensors as JSON: nested lists of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep_server.errors import Fault, pointer
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.safetensors import MAX_RANK, refuse_long
from gradstep_server.sessions.tensors import DType, Tensor, Tensors


async def read(
    values: Mapping[str, Any], dtype: DType, field: str, limit: int
) -> dict[str, Tensor]:
    """Return the tensors that nested lists stand for, rounded to a master dtype.

    Many elements are read in a thread.

    Args:
        values: nested lists of numbers, or a number for a tensor of rank 0, by name.
        dtype: F32 or F64.
        field: where in the body they stood, for errors.
        limit: the most tensors.

    Raises:
        InvalidTensors: a list is ragged, or holds anything but finite numbers,
            or there are too many tensors, or a name is too long.
    """
    if len(values) > limit:
        detail = f"holds {len(values)} tensors; at most {limit} are accepted"
        raise InvalidTensors(Fault(pointer(field), detail))
    refuse_long(values, field)
    return await offload(sum(map(_extent, values.values())), _read, values, dtype, field)


def _extent(value: object) -> int:
    """Estimate the number of elements by the first list of each level."""
    extent = 1
    while isinstance(value, list) and value:
        extent *= len(value)
        value = value[0]
    return extent


def _read(values: Mapping[str, Any], dtype: DType, field: str) -> dict[str, Tensor]:
    return {name: _tensor(value, dtype, pointer(field, name)) for name, value in values.items()}


def _tensor(value: object, dtype: DType, at: str) -> Tensor:
    shape, flat = _flatten(value, at)
    kinds = set(map(type, flat))
    if not kinds <= {int, float}:
        wrong = next(i for i, item in enumerate(flat) if type(item) not in (int, float))
        found = {type(None): "null", bool: "a truth value", str: "a text", dict: "an object"}
        what = found.get(type(flat[wrong]), "a list")
        raise InvalidTensors(
            Fault(at, f"element {wrong} is {what}; every element must be a number")
        )
    doubles = np.array(flat, np.float64)
    with np.errstate(over="ignore"):
        masters = doubles.astype(dtype.storage, copy=False)
    if not np.isfinite(masters).all():
        wrong = int(np.argmin(np.isfinite(masters)))
        raise InvalidTensors(
            Fault(at, f"element {wrong} is {flat[wrong]!r}, too large for {dtype}")
        )
    return Tensor(dtype, shape, masters.view(np.uint8).data)


def _flatten(value: object, at: str) -> tuple[tuple[int, ...], list[Any]]:
    """Return the shape of nested lists of equal lengths, and their elements in order."""
    if not isinstance(value, list):
        return (), [value]
    shape = [len(value)]
    level: list[Any] = value
    while level and all(isinstance(item, list) for item in level):
        lengths = {len(item) for item in level}
        if len(lengths) > 1:
            detail = (
                f"is ragged: lists of {min(lengths)} and of {max(lengths)} elements side by side"
            )
            raise InvalidTensors(Fault(at, detail))
        if len(shape) == MAX_RANK:
            raise InvalidTensors(Fault(at, f"is nested more than {MAX_RANK} lists deep"))
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def write(tensors: Tensors) -> dict[str, Any]:
    """Return tensors in a form that orjson writes as nested lists; NaN becomes null."""
    return {name: _written(tensor) for name, tensor in tensors.items()}


def _written(tensor: Tensor) -> NDArray[Any] | np.floating[Any] | list[Any]:
    values = tensor.widened(tensor.dtype.master).reshape(tensor.shape)
    if not tensor.shape:
        return values[()]
    return values if values.size else values.tolist()
