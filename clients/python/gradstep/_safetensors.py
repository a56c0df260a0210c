"""The safetensors format, without copies: a file is a header and views of the arrays.

Eight bytes hold the header's length, little-endian; the header is JSON, padded
with spaces to a multiple of 8, mapping each name to ``dtype``, ``shape`` and
``data_offsets`` (begin, end) in what follows it; ``__metadata__`` maps strings
to strings. The tensors follow without gaps, wider dtypes first, so that every
one is aligned to its words. This module knows arrays; it knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gradstep._arrays import WORD_OF_DTYPE, Tensor, to_array
from gradstep._types import Array

METADATA = "__metadata__"
LENGTH_SIZE = 8

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[memoryview, ...]:
    """Return the pieces of a file: the header, then the bytes of each tensor.

    Args:
        tensors: The tensors by name.
        metadata: What goes into ``__metadata__``.

    Raises:
        ValueError: A name is reserved or no Unicode text.
    """
    if METADATA in tensors:
        msg = f"no tensor can have the name {METADATA!r}"
        raise ValueError(msg)
    widest_first = sorted(tensors, key=lambda name: -WORD_OF_DTYPE[tensors[name].dtype].itemsize)
    ordered = {name: tensors[name] for name in widest_first}
    header = _ENCODER.encode(_header(ordered, metadata)).encode()
    header += b" " * (-len(header) % LENGTH_SIZE)
    head = len(header).to_bytes(LENGTH_SIZE, "little") + header
    return memoryview(head), *(tensor.data for tensor in ordered.values())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> dict[str, object]:
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.data.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
        begin = end
    return header


def decode(body: memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the arrays, as views of `body`, and the metadata.

    Args:
        body: A whole file.

    Raises:
        ValueError: It is no such file: broken header, gaps, wrong sizes.
    """
    size = int.from_bytes(body[:LENGTH_SIZE], "little")
    begin = LENGTH_SIZE + size
    if not LENGTH_SIZE < begin <= len(body):
        msg = f"a header of {size} bytes does not fit a body of {len(body)}"
        raise ValueError(msg)
    header = json.loads(str(body[LENGTH_SIZE:begin], "utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    metadata = header.pop(METADATA, {})
    data = np.frombuffer(body, np.uint8)[begin:]
    try:
        spans = [tuple(entry["data_offsets"]) for entry in header.values()]
        _check_cover(spans, len(data))
        return {name: _array(entry, data) for name, entry in header.items()}, dict(metadata)
    except (KeyError, TypeError) as error:
        raise ValueError("the header has an entry of the wrong form") from error


def _array(entry: Mapping[str, Sequence[int]], data: NDArray[np.uint8]) -> Array:
    begin, end = entry["data_offsets"]
    return to_array(str(entry["dtype"]), tuple(entry["shape"]), data[begin:end])


def _check_cover(spans: Sequence[tuple[int, ...]], size: int) -> None:
    """Refuse tensors that do not fill the data exactly, end to end."""
    edges = [0, *(edge for begin, end in sorted(spans) for edge in (begin, end)), size]
    if edges[0::2] != edges[1::2] or edges != sorted(edges):
        raise ValueError("the tensors leave gaps, overlap, or do not fill the body")
