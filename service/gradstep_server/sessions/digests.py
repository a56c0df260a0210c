"""Digests: by the first a retry is recognised, by the second damage.

The *content digest* covers what a client asked for and nothing of how it was
encoded, so a retry may come in another format or over another connection. The
*seal* covers a stored line, so that a flipped bit is found before it is used.
Both are BLAKE3 (34 ms for 100 MB where SHA-256 takes 94).
"""

from __future__ import annotations

from typing import Any

import orjson
from blake3 import blake3

from gradstep_server.sessions.store import Body, Entry
from gradstep_server.sessions.tensors import DType, Tensor, Tensors, elements

SHARED_FROM = 8_000_000
"""Bytes that all cores digest together: below it, to wake them takes longer than it saves."""

Index = list[tuple[str, str, list[int]]]
"""Name, dtype and shape of each tensor of a body, in the order of their bytes."""


def canonical(value: object) -> bytes:
    """Return JSON in which equal values are equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def index(tensors: Tensors) -> Index:
    """Describe tensors in the order in which they are digested and stored: by name."""
    return [(name, tensors[name].dtype, list(tensors[name].shape)) for name in sorted(tensors)]


def body(tensors: Tensors) -> Body:
    """Return the tensors' bytes in the order of their index."""
    return [tensors[name].data for name in sorted(tensors)]


def unpack(entries: Index, data: memoryview) -> dict[str, Tensor]:
    """Return the tensors that `body` made bytes of, as views.

    Raises:
        ValueError: the bytes are fewer or more than the index says.
    """
    tensors = {}
    start = 0
    for name, dtype, shape in entries:
        known = DType(dtype)
        end = start + elements(shape) * known.storage.itemsize
        tensors[name] = Tensor(known, tuple(shape), data[start:end])
        start = end
    if start != len(data):
        raise ValueError(f"the index describes {start} bytes, there are {len(data)}")
    return tensors


def content_digest(fields: dict[str, Any], tensors: Tensors) -> bytes:
    """Return the digest of a command: its fields, and its tensors by name."""
    return _blake3(canonical([fields, index(tensors)]), *body(tensors))


def seal(entry: Entry) -> bytes:
    """Return the digest of every field of an entry, its seal left out."""
    fields = [entry.seq, entry.kind, entry.n, entry.step, entry.digest.hex(), entry.body_size]
    return _blake3(canonical([*fields, entry.created_at]), entry.record)


def snapshot_seal(seq: int, record: bytes, parts: Body) -> bytes:
    """Return the digest of a snapshot."""
    return _blake3(canonical(seq), record, *parts)


def record_digest(record: bytes) -> bytes:
    """Return the digest of bytes that stand for themselves."""
    return _blake3(record)


def _blake3(*parts: bytes | memoryview) -> bytes:
    shared = sum(map(len, parts)) >= SHARED_FROM
    digest = blake3(max_threads=blake3.AUTO) if shared else blake3()
    for part in parts:
        digest.update(part)
    return digest.digest()
