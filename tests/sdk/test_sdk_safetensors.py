"""The codec writes what the safetensors library reads, reads what it writes, refuses the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradstep._arrays import to_tensors
from gradstep._safetensors import decode, encode

FLOATS = st.sampled_from([np.float64, np.float32, np.float16])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    FLOATS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES)),
    max_size=5,
)


def joined(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    return b"".join(encode(to_tensors(tensors), metadata))


def file(header: object, data: bytes = b"") -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(len(text).to_bytes(8, "little") + text + data)


@settings(derandomize=True, deadline=None)
@given(tensors=TENSORS)
def test_what_is_encoded_is_decoded_bit_for_bit(tensors: dict[str, Any]) -> None:
    found, metadata = decode(memoryview(joined(tensors, {"a": "ü"})))
    assert metadata == {"a": "ü"}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@settings(derandomize=True, deadline=None)
@given(tensors=TENSORS)
def test_the_library_reads_what_is_encoded(tensors: dict[str, Any]) -> None:
    found = safetensors.numpy.load(joined(tensors))
    assert found.keys() == tensors.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in tensors.items())


@settings(derandomize=True, deadline=None)
@given(tensors=TENSORS)
def test_what_the_library_writes_is_decoded(tensors: dict[str, Any]) -> None:
    found, _ = decode(memoryview(safetensors.numpy.save(tensors)))
    assert found.keys() == tensors.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in tensors.items())


def test_bfloat16_goes_to_and_from_the_torch_library() -> None:
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(safetensors.torch.load(joined({"w": tensor}))["w"], tensor)
    found, _ = decode(memoryview(safetensors.torch.save({"w": tensor})))
    assert np.array_equal(found["w"], tensor.float().numpy())


def test_an_array_in_fortran_order_survives() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert np.array_equal(safetensors.numpy.load(joined({"w": array}))["w"], array)


def test_every_tensor_is_aligned_to_its_words() -> None:
    tensors: dict[str, Any] = {
        "a": np.zeros(3, np.float16),
        "b": np.zeros(1, np.float64),
        "c": np.zeros(1, ml_dtypes.bfloat16),
        "d": np.zeros(3, np.float32),
    }
    pieces = encode(to_tensors(tensors))
    assert len(pieces[0]) % 8 == 0
    header = json.loads(bytes(pieces[0][8:]))
    assert list(header) == ["b", "d", "a", "c"]
    buffer = np.frombuffer(b"".join(pieces), np.uint8).copy()
    found, _ = decode(buffer.data)
    shared = {name for name, array in found.items() if np.shares_memory(array, buffer)}
    assert shared == {"a", "b", "d"}, "views of the buffer, but for the widened one"


def test_the_data_is_views_of_the_arrays() -> None:
    array = np.zeros(1000, np.float32)
    _, data = encode(to_tensors({"w": array}))
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)


def test_a_reserved_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor can have the name '__metadata__'"):
        joined({"__metadata__": np.zeros(1)})


def entry(begin: int, end: int, shape: object = None, dtype: str = "F32") -> dict[str, object]:
    whole = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": whole, "data_offsets": [begin, end]}


NO_FIT = "does not fit a body"
NO_JSON = "(Expecting|can't decode)"
NO_COVER = "the tensors leave gaps, overlap, or do not fill the body"
NO_FORM = "the header has an entry of the wrong form"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (memoryview(b""), NO_FIT),
        (memoryview(b"\1\0\0"), NO_FIT),
        (memoryview((1 << 62).to_bytes(8, "little") + b"{}"), NO_FIT),
        (memoryview((3).to_bytes(8, "little") + b"{}"), NO_FIT),
        (file(b"{"), NO_JSON),
        (file(b"\xff\xfe"), NO_JSON),
        (file([]), "the header is no JSON object"),
        (file({"w": 3}), NO_FORM),
        (file({"w": {}}), NO_FORM),
        (file({"__metadata__": 1}), NO_FORM),
        (file({"w": entry(0, 4)}), NO_COVER),
        (file({"w": entry(0, 4)}, b"12345678"), NO_COVER),
        (file({"w": entry(4, 8)}, b"12345678"), NO_COVER),
        (file({"v": entry(0, 4), "w": entry(0, 4)}, b"1234"), NO_COVER),
        (file({"v": entry(0, 4), "w": entry(8, 12)}, b"123412341234"), NO_COVER),
        (file({"w": entry(4, 0)}, b"1234"), NO_COVER),
        (file({"w": entry(-4, 0)}, b"1234"), NO_COVER),
        (file({"w": entry(0, 4, [2])}, b"1234"), "cannot reshape"),
        (file({"w": entry(0, 3, [1])}, b"123"), "must be a divisor"),
        (file({"w": entry(0, 4, ["1"])}, b"1234"), NO_FORM),
        (file({"w": entry(0, 4, 1)}, b"1234"), NO_FORM),
        (file({"w": entry(0, 4, dtype="I32")}, b"1234"), "'I32' is none of"),
        (file({"w": entry(0, 4) | {"data_offsets": [0]}}, b"1234"), "not enough values"),
        (file({"w": entry(0, 4) | {"data_offsets": [0.0, 4.0]}}, b"1234"), NO_FORM),
    ],
)
def test_a_damaged_file_is_refused(body: memoryview, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        decode(body)
