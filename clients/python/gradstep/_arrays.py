"""Arrays to bytes and back: NumPy, torch and ml_dtypes here, safetensors' dtypes there.

Neither torch nor ml_dtypes is imported: a torch tensor can only be here if torch
is loaded, and an array of ml_dtypes is known by the name of its dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep._types import Array, Dtype, TensorLike

DTYPE_OF_NAME: Mapping[str, Dtype] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
}

WORD_OF_DTYPE: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""The NumPy dtype of the bytes; NumPy has no bfloat16, so its bits are integers."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it travels."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: memoryview
    """The values in C order, little-endian; a view of the caller's array if it is so laid out."""


def to_tensors(arrays: Mapping[str, TensorLike]) -> dict[str, Tensor]:
    """Return the bytes of arrays, each copied only if its layout demands it.

    Args:
        arrays: The arrays by name.

    Raises:
        TypeError: A value is no array of floating point numbers.
    """
    return {name: to_tensor(name, array) for name, array in arrays.items()}


def common_dtype(tensors: Mapping[str, Tensor]) -> Dtype | None:
    """Return the dtype of all tensors, None if there are none.

    Args:
        tensors: The tensors by name.

    Raises:
        ValueError: They are of several dtypes.
    """
    dtypes = sorted({tensor.dtype for tensor in tensors.values()})
    if len(dtypes) > 1:
        msg = f"the parameters are of several dtypes, {', '.join(dtypes)}: say which with dtype="
        raise ValueError(msg)
    return dtypes[0] if dtypes else None


def to_tensor(name: str, value: TensorLike) -> Tensor:
    """Return the bytes of an array, copied only if its layout demands it.

    Args:
        name: The tensor's name, for the error.
        value: A NumPy array (also of ml_dtypes.bfloat16), a torch tensor on any
            device, or an object with ``__array__``.

    Raises:
        TypeError: It is no array, is sparse, or holds no floating point numbers.
    """
    words, dtype = _words(name, value)
    words = np.asarray(words, dtype=WORD_OF_DTYPE[dtype], order="C")
    return Tensor(dtype, words.shape, words.reshape(-1).view(np.uint8).data)


def to_array(dtype: str, shape: tuple[int, ...], raw: NDArray[np.uint8]) -> Array:
    """Return a view of the bytes as an array; bfloat16 is widened exactly to float32.

    Args:
        dtype: The dtype's name in safetensors.
        shape: The shape.
        raw: The bytes, exactly as many as dtype and shape need.

    Raises:
        ValueError: The dtype is unknown, or the bytes are too few or too many.
    """
    if dtype not in WORD_OF_DTYPE:
        msg = f"the dtype {dtype!r} is none of {', '.join(WORD_OF_DTYPE)}"
        raise ValueError(msg)
    if dtype == "BF16":
        bits = raw.view(WORD_OF_DTYPE["BF16"]).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).reshape(shape)
    words: Array = raw.view(WORD_OF_DTYPE[dtype]).reshape(shape)
    return words if words.flags.aligned else words.copy()


def _words(name: str, value: TensorLike) -> tuple[NDArray[np.generic], Dtype]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _torch_words(name, value)
    if not hasattr(value, "__array__"):
        msg = f"{name!r}: expected a NumPy array or a torch tensor, got {type(value).__name__}"
        raise TypeError(msg)
    array = np.asarray(value)
    dtype = _dtype(name, array.dtype.name)
    return (array.view(np.uint16), dtype) if dtype == "BF16" else (array, dtype)


def _torch_words(name: str, value: TensorLike) -> tuple[NDArray[np.generic], Dtype]:
    torch: Any = sys.modules["torch"]
    tensor: Any = value
    if tensor.layout is not torch.strided:
        msg = f"{name!r}: a tensor of layout {tensor.layout} cannot be sent; use .to_dense()"
        raise TypeError(msg)
    dtype = _dtype(name, str(tensor.dtype).removeprefix("torch."))
    tensor = tensor.detach().cpu().contiguous()
    # torch gives NumPy no bfloat16, but it gives the same bits as integers.
    return (tensor.view(torch.int16) if dtype == "BF16" else tensor).numpy(), dtype


def _dtype(name: str, dtype_name: str) -> Dtype:
    dtype = DTYPE_OF_NAME.get(dtype_name)
    if dtype is None:
        msg = f"{name!r}: the dtype {dtype_name} is none of {', '.join(DTYPE_OF_NAME)}"
        raise TypeError(msg)
    return dtype
