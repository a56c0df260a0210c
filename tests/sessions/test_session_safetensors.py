"""The codec agrees with the safetensors library, and refuses what is damaged or hostile."""

from __future__ import annotations

import json
import time
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

from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.safetensors import Limits, decode, encode
from gradstep_server.sessions.tensors import DType, Tensor

NAMES = {"float64": DType.F64, "float32": DType.F32, "float16": DType.F16}
LIMITS = Limits()
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from([np.float64, np.float32, np.float16]).flatmap(
        lambda dtype: arrays.arrays(dtype, SHAPES)
    ),
    max_size=5,
)
METADATA = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


def tensors(given_arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: Tensor(NAMES[array.dtype.name], array.shape, memoryview(array.tobytes()))
        for name, array in given_arrays.items()
    }


def file(header: object, data: bytes = b"", length: int | None = None) -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(text) if length is None else length
    return memoryview(claimed.to_bytes(8, "little") + text + data)


def entry(begin: int, end: int, **fields: Any) -> dict[str, Any]:
    """Return the header of a float32 vector that spans these bytes."""
    shape = [max(end - begin, 0) // 4]
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end], **fields}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(given_arrays=ARRAYS, metadata=METADATA)
def test_what_is_encoded_is_decoded_and_read_by_the_library(
    given_arrays: dict[str, Any], metadata: dict[str, str]
) -> None:
    joined = b"".join(encode(tensors(given_arrays), metadata))
    assert decode(memoryview(joined), LIMITS) == (tensors(given_arrays), metadata)
    read = safetensors.numpy.load(joined)
    assert read.keys() == given_arrays.keys()
    for name, array in given_arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(given_arrays=ARRAYS, metadata=METADATA)
def test_what_the_library_writes_is_decoded(
    given_arrays: dict[str, Any], metadata: dict[str, str]
) -> None:
    # The library writes broken JSON for no tensors with empty metadata.
    written = safetensors.numpy.save(given_arrays, metadata or None)
    assert decode(memoryview(written), LIMITS) == (tensors(given_arrays), metadata)


def test_bfloat16_agrees_with_the_library_both_ways() -> None:
    theirs = torch.tensor([[1.5, -0.25], [3e38, 0.0]], dtype=torch.bfloat16)
    found, _ = decode(memoryview(safetensors.torch.save({"w": theirs})), LIMITS)
    assert (found["w"].dtype, found["w"].shape) == (DType.BF16, (2, 2))
    expected = theirs.float().numpy().astype(ml_dtypes.bfloat16)
    assert bytes(found["w"].data) == expected.tobytes()
    back = safetensors.torch.load(b"".join(encode(found, {})))
    assert torch.equal(back["w"], theirs)


def test_data_starts_aligned_and_wider_dtypes_come_first() -> None:
    mixed = {
        "a": np.zeros(1, np.float16),
        "b": np.zeros(3, np.float64),
        "c": np.zeros(1, np.float32),
    }
    parts = encode(tensors(mixed), {"odd": "x"})
    assert len(parts[0]) % 8 == 0
    assert [len(part) for part in parts[1:]] == [24, 4, 2]


def test_tensors_are_views_of_the_file() -> None:
    buffer = bytearray(file({"w": entry(0, 4)}, bytes(4)))
    found, _ = decode(memoryview(buffer), LIMITS)
    buffer[-4:] = np.float32(2.5).tobytes()
    assert found["w"].stored().tolist() == [2.5]


def many(count: int) -> dict[str, Any]:
    return {f"t{i}": entry(0, 0) for i in range(count)}


def twice(count: int) -> bytes:
    """Return a header of distinct names, the last of which comes again."""
    names = ",".join(f'"{i:x}":0' for i in range(count))
    return f'{{{names},"{count - 1:x}":0}}'.encode()


HOSTILE: dict[str, tuple[memoryview, str]] = {
    "empty": (memoryview(b""), "0 bytes"),
    "seven bytes": (memoryview(bytes(7)), "7 bytes"),
    "no header": (file(b""), "strict JSON"),
    "a header cut short": (file(b"{}", length=9), "truncated"),
    "a header over the limit": (file(b"{}", length=(1 << 20) + 1), "at most 1048576"),
    "a header of 2**63 bytes": (file(b"{}", length=1 << 63), "at most 1048576"),
    "a header of 2**64 - 1 bytes": (file(b"{}", length=(1 << 64) - 1), "at most 1048576"),
    "no JSON": (file(b"[1, 2"), "strict JSON"),
    "no object": (file([]), "JSON object"),
    "a number": (file(b"3"), "JSON object"),
    "no UTF-8": (file(b'{"\xff": 1}'), "strict JSON"),
    "a byte order mark": (file(b"\xef\xbb\xbf{}"), "strict JSON"),
    "bytes behind the object": (file(b"{} x"), "strict JSON"),
    "NaN": (file(b'{"w": NaN}'), "NaN is not JSON"),
    "-Infinity": (file(b'{"w": -Infinity}'), "-Infinity is not JSON"),
    "a long number": (file(b'{"w": ' + b"1" * 5000 + b"}"), "strict JSON"),
    "deep lists": (file(b'{"w": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"), "nested too deep"),
    "many lists": (file(b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "more lists than"),
    "deep objects": (file(b'{"w": ' * 50_000 + b"1" + b"}" * 50_000), "nested too deep"),
    "a name twice": (file(b'{"w": 1, "w": 2}'), "'w' occurs twice"),
    "a field twice": (file(b'{"w": {"dtype": "F32", "dtype": "F64"}}'), "'dtype' occurs twice"),
    "one name of 20,000 twice": (file(twice(20_000)), "'4e1f' occurs twice"),
    "a lone surrogate": (file(b'{"\\ud800": {}}'), "surrogate"),
    "a surrogate in the metadata": (file(b'{"__metadata__": {"a": "\\udfff"}}'), "surrogate"),
    "metadata of numbers": (file({"__metadata__": {"a": 1}}), "/__metadata__"),
    "metadata that is a list": (file({"__metadata__": []}), "/__metadata__"),
    "4,097 tensors": (file(many(4097)), "4097 tensors; at most 4096"),
    "an entry that is no object": (file({"w": 3}), "/w"),
    "an entry without a shape": (file({"w": {"dtype": "F32"}}), "/w"),
    "an entry with a field more": (file({"w": entry(0, 0, more=1)}), "/w"),
    "dtype I64": (file({"w": entry(0, 8, dtype="I64")}, bytes(8)), "'I64' is not one of"),
    "dtype f32": (file({"w": entry(0, 0, dtype="f32")}), "'f32' is not one of"),
    "a dtype that is a list": (file({"w": entry(0, 0, dtype=["F32"])}), "is not one of"),
    "dtype null": (file({"w": entry(0, 0, dtype=None)}), "is not one of"),
    "a negative size": (file({"w": entry(0, 0, shape=[-1])}), "shape must be"),
    "two negative sizes": (file({"w": entry(0, 4, shape=[-1, -1])}, bytes(4)), "shape must be"),
    "a size true": (file({"w": entry(0, 4, shape=[True])}, bytes(4)), "shape must be"),
    "a size 1.0": (file({"w": entry(0, 4, shape=[1.0])}, bytes(4)), "shape must be"),
    "a shape that is a number": (file({"w": entry(0, 4, shape=1)}, bytes(4)), "shape must be"),
    "33 dimensions": (file({"w": entry(0, 4, shape=[1] * 33)}, bytes(4)), "shape must be"),
    "a size of 2**63": (file({"w": entry(0, 0, shape=[1 << 63])}), "shape must be"),
    "a size beyond 64 bits": (file({"w": entry(0, 0, shape=[1 << 62] * 32)}), "span 0"),
    "2**62 elements of 4 bytes": (file({"w": entry(0, 0, shape=[1 << 62])}), "span 0"),
    "offsets of three": (file({"w": entry(0, 0, data_offsets=[0, 0, 0])}), "two whole"),
    "a negative offset": (file({"w": entry(0, 0, data_offsets=[-4, 0])}), "two whole"),
    "a true offset": (file({"w": entry(0, 0, data_offsets=[False, 0])}), "two whole"),
    "offsets in reverse": (file({"w": entry(0, 0, data_offsets=[4, 0])}, bytes(4)), "span -4"),
    "too short a span": (file({"w": entry(0, 4, shape=[2])}, bytes(4)), "take 8 bytes"),
    "an overlap": (file({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlaps"),
    "the same span": (file({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), "overlaps"),
    "a gap": (file({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "gap"),
    "a gap at the start": (file({"a": entry(4, 8)}, bytes(8)), "gap"),
    "an empty tensor in the gap": (file({"a": entry(8, 8)}, bytes(8)), "gap"),
    "data too short": (file({"a": entry(0, 8)}, bytes(7)), "holds 7"),
    "data too long": (file({"a": entry(0, 8)}, bytes(9)), "holds 9"),
    "data of no tensor": (file({}, bytes(1)), "holds 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_or_hostile_file_is_refused_at_once(case: str) -> None:
    buffer, expected = HOSTILE[case]
    began = time.process_time()
    with pytest.raises(InvalidTensors) as refusal:
        decode(buffer, LIMITS)
    spent = time.process_time() - began
    assert expected in str(refusal.value)
    assert spent < 1


def test_the_worst_headers_of_a_mebibyte_are_refused_in_a_moment() -> None:
    began = time.process_time()
    for header in (
        b'{"w": [' + b",".join([b"[]"] * 340_000) + b"]}",
        twice(110_000),
        json.dumps(many(14_000)).encode(),
        b'{"w": "' + b"\\ud800" * 170_000 + b'"}',
    ):
        with pytest.raises(InvalidTensors):
            decode(file(header), LIMITS)
    assert time.process_time() - began < 3


def test_as_many_tensors_as_the_limit_are_read_whatever_their_order() -> None:
    header = {f"t{i}": entry(4 * (4095 - i), 4 * (4096 - i)) for i in range(4096)}
    found, _ = decode(file(header, np.arange(4096, dtype="<f4").tobytes()), LIMITS)
    assert len(found) == 4096
    assert found["t4000"].stored().tolist() == [95.0]


def test_limits_are_settings() -> None:
    header = file(many(3))
    assert len(decode(header, Limits(tensors=3))[0]) == 3
    with pytest.raises(InvalidTensors, match="at most 2"):
        decode(header, Limits(tensors=2))
    with pytest.raises(InvalidTensors, match="at most 10"):
        decode(header, Limits(header=10))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(data=st.data())
def test_a_file_with_any_byte_changed_is_read_or_refused_but_never_fails(
    data: st.DataObject,
) -> None:
    whole = bytearray(
        file({"__metadata__": {"a": "b"}, "w": entry(0, 4), "b": entry(4, 8)}, bytes(8))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, _ = decode(memoryview(whole), LIMITS)
    except InvalidTensors as refusal:
        assert refusal.faults  # noqa: PT017  # either answer is right for some byte
    else:
        assert sum(len(tensor.data) for tensor in found.values()) == 8
