"""The safetensors format, without copies and without trust.

A file is 8 bytes (the header's length, little-endian), the header (JSON: name →
dtype, shape and data_offsets; ``__metadata__`` maps strings to strings; padded
with spaces), and the data. Every byte of the data belongs to exactly one
tensor. Reading checks all of that before it looks at a tensor; writing starts
the data at a multiple of 8 and puts wider dtypes first, so that every view is
aligned.

Reference: the format's description in huggingface/safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gradstep_server.errors import Fault, pointer
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.tensors import DType, Tensor, Tensors, elements

_ALIGNMENT = 8
MAX_RANK = 32
"""The most dimensions of a tensor."""

LONGEST_NAME = 1_024
"""The most characters of a tensor's name: answers repeat it. A session takes half of that,
and the files of a state put the slot before it."""

_MAX_LISTS = 32_768
"""How many lists a header may hold beside those of its tensors, such as in its metadata."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a header is looked at before it is refused."""

    header: int = 1 << 20
    """Bytes of the header."""

    tensors: int = 4096
    """Tensors in one body."""


def encode(tensors: Tensors, metadata: Mapping[str, str]) -> list[memoryview]:
    """Return a safetensors file as byte views: the header, then each tensor's bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[memoryview] = []
    offset = 0
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.storage.itemsize, name))
    for name in order:
        tensor = tensors[name]
        end = offset + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (offset, end),
        }
        parts.append(tensor.data)
        offset = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return [memoryview(len(text).to_bytes(8, "little") + text), *parts]


def decode(buffer: memoryview, limits: Limits) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return views of the tensors in a safetensors file, and its metadata.

    Raises:
        InvalidTensors: the file is damaged, hostile, or over a limit.
    """
    header, start = _header(buffer, limits)
    metadata = header.pop("__metadata__", {})
    if not _is_text_map(metadata):
        raise _fault("/__metadata__", "must map strings to strings")
    if not all(map(_is_unicode, [*header, *metadata, *metadata.values()])):
        raise _fault("", "the header holds a lone surrogate, which is no Unicode text")
    refuse_long(header)
    if len(header) > limits.tensors:
        raise _fault("", f"holds {len(header)} tensors; at most {limits.tensors} are accepted")
    spans = {name: _span(name, entry) for name, entry in header.items()}
    data = buffer[start:]
    position = 0
    for name, (_, _, begin, end) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise _fault(pointer(name), f"data_offsets {what}: expected to begin at {position}")
        position = end
    if position != len(data):
        raise _fault(
            "", f"the header describes {position} bytes of data, the body holds {len(data)}"
        )
    return {
        name: Tensor(dtype, shape, data[begin:end])
        for name, (dtype, shape, begin, end) in spans.items()
    }, metadata


def refuse_long(names: Iterable[str], *within: str) -> None:
    """Refuse names of tensors that are too long to repeat.

    Args:
        names: those of the tensors.
        within: the path to them, for errors.

    Raises:
        InvalidTensors: one is longer than LONGEST_NAME.
    """
    for name in names:
        if len(name) > LONGEST_NAME:
            detail = (
                f"the tensor's name has {len(name)} characters; at most {LONGEST_NAME} are accepted"
            )
            raise _fault(pointer(*within, name[:64]), detail)


def _fault(pointer: str, detail: str) -> InvalidTensors:
    return InvalidTensors(Fault(pointer, detail))


def _header(buffer: memoryview, limits: Limits) -> tuple[dict[str, Any], int]:
    """Return the header's object, its names unique, and where the data starts."""
    if len(buffer) < _ALIGNMENT:
        raise _fault("", f"is no safetensors file: {len(buffer)} bytes, a header length takes 8")
    length = int.from_bytes(buffer[:8], "little")
    if length > limits.header:
        raise _fault("", f"the header claims {length} bytes; at most {limits.header} are accepted")
    if length > len(buffer) - 8:
        raise _fault("", f"is truncated: the header claims {length} bytes of {len(buffer) - 8}")
    text = bytes(buffer[8 : 8 + length])
    if text.count(b"[") > 2 * limits.tensors + _MAX_LISTS:
        raise _fault("", f"the header holds more lists than {limits.tensors} tensors have")
    try:
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise _fault("", "the header is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _fault("", f"the header is not strict JSON: {error}") from None
    if not isinstance(header, dict):
        raise _fault("", "the header must be a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:100]!r} occurs twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_unicode(text: str) -> bool:
    return text.isascii() or not _SURROGATE.search(text)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _span(name: str, entry: object) -> tuple[DType, tuple[int, ...], int, int]:
    """Return dtype, shape, begin and end of one tensor, checked by themselves."""
    at = pointer(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _fault(at, "must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DType.__members__:
        raise _fault(at, f"dtype {str(dtype)[:20]!r} is not one of {', '.join(DType)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(map(_is_count, shape)):
        raise _fault(at, f"shape must be a list of at most {MAX_RANK} whole numbers")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):  # noqa: PLR2004 - begin and end
        raise _fault(at, "data_offsets must be two whole numbers")
    begin, end = offsets
    known = DType(dtype)
    size = elements(shape) * known.storage.itemsize
    if end - begin != size:
        raise _fault(at, f"dtype and shape take {size} bytes, data_offsets span {end - begin}")
    return known, tuple(shape), begin, end
