"""Widening is exact, narrowing rounds to nearest, ties to even."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gradstep_server.sessions.tensors import DType, Tensor, narrow_into, to_bfloat16

PATTERNS = np.arange(1 << 16, dtype=np.uint16)
SIXTEEN = pytest.mark.parametrize(
    ("dtype", "reference"), [(DType.BF16, ml_dtypes.bfloat16), (DType.F16, np.float16)]
)


def of_bits(bits: Any, dtype: DType) -> Tensor:
    return Tensor(dtype, (len(bits),), memoryview(bits.tobytes()))


@SIXTEEN
@pytest.mark.parametrize("master", [DType.F32, DType.F64])
def test_every_sixteen_bit_value_is_widened_exactly(
    dtype: DType, reference: type[Any], master: DType
) -> None:
    widened = of_bits(PATTERNS, dtype).widened(master)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        expected = PATTERNS.view(reference).astype(master.storage)
    assert widened.dtype == master.storage
    np.testing.assert_array_equal(widened, expected)
    assert (np.signbit(widened) == np.signbit(expected)).all()


@SIXTEEN
def test_every_sixteen_bit_value_comes_back_from_its_master(
    dtype: DType, reference: type[Any]
) -> None:
    back = Tensor.of(of_bits(PATTERNS, dtype).widened(DType.F32), (1 << 16,), dtype)
    bits = np.frombuffer(back.data, np.uint16)
    numbers = ~np.isnan(PATTERNS.view(reference).astype(np.float32))
    np.testing.assert_array_equal(bits[numbers], PATTERNS[numbers])
    assert np.isnan(bits.view(reference).astype(np.float32)[~numbers]).all()


@SIXTEEN
def test_every_midpoint_and_its_neighbours_round_as_the_reference_does(
    dtype: DType, reference: type[Any]
) -> None:
    finite = PATTERNS[np.isfinite(PATTERNS.view(reference).astype(np.float32))]
    exact = finite.view(reference).astype(np.float64)
    with np.errstate(over="ignore"):
        above = np.nextafter(finite.view(reference), reference(math.inf)).astype(np.float64)
    middle = ((exact + np.where(np.isfinite(above), above, exact)) / 2).astype(np.float32)
    for tried in (middle, np.nextafter(middle, -math.inf), np.nextafter(middle, math.inf)):
        with np.errstate(over="ignore"):
            expected = tried.astype(reference).view(np.uint16)
        rounded = Tensor.of(tried, tried.shape, dtype)
        np.testing.assert_array_equal(np.frombuffer(rounded.data, np.uint16), expected)


def test_random_patterns_round_to_bfloat16_as_the_reference_does() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 1_000_000, dtype=np.uint32)
    values = bits.view(np.float32)
    with np.errstate(invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    rounded = to_bfloat16(values)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(rounded[numbers], expected[numbers])
    assert np.isnan(rounded.view(ml_dtypes.bfloat16)[~numbers].astype(np.float32)).all()
    np.testing.assert_array_equal(np.signbit(values), rounded >> 15 == 1)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (math.inf, 0x7F80),
        (-math.inf, 0xFF80),
        (-0.0, 0x8000),
        (3.4028235e38, 0x7F80),
        (1e-45, 0x0000),
        (math.nan, 0x7FC0),
    ],
)
def test_special_values_become_bfloat16(value: float, bits: int) -> None:
    assert to_bfloat16(np.array([value], np.float32)).tolist() == [bits]


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_pieces_of_any_size_are_rounded_as_the_whole_is(dtype: DType) -> None:
    """Threads share them out, and what is compiled takes several elements at a time."""
    values = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    whole, rounded = np.empty(1000, dtype.storage), np.empty(1000, dtype.storage)
    narrow_into(whole, values, dtype)
    for start in range(0, 1000, 7):
        narrow_into(rounded[start : start + 7], values[start : start + 7], dtype)
    np.testing.assert_array_equal(rounded, whole)


def test_half_precision_overflows_to_infinity() -> None:
    values = np.array([65519.0, 65520.0, -1e9], np.float32)
    rounded = Tensor.of(values, (3,), DType.F16)
    assert np.frombuffer(rounded.data, np.float16).tolist() == [65504.0, math.inf, -math.inf]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_values_of_the_master_dtype_are_neither_rounded_nor_copied(dtype: DType) -> None:
    values = np.array([1.0, 0.1, -0.0], dtype.storage)
    tensor = Tensor.of(values, (3,), dtype)
    assert bytes(tensor.data) == values.tobytes()
    assert np.shares_memory(np.frombuffer(tensor.data, np.uint8), values)


def test_bytes_that_are_not_aligned_are_read() -> None:
    data = memoryview(b"\x00" + np.array([1.5, -2.5], "<f8").tobytes())[1:]
    widened = Tensor(DType.F64, (2,), data).widened(DType.F64)
    assert widened.tolist() == [1.5, -2.5]
    assert widened.flags.aligned


@pytest.mark.parametrize("dtype", DType)
def test_scalars_and_empty_tensors_have_sizes(dtype: DType) -> None:
    itemsize = dtype.storage.itemsize
    assert Tensor(dtype, (), memoryview(bytes(itemsize))).widened(dtype.master).tolist() == [0.0]
    assert Tensor(dtype, (3, 0), memoryview(b"")).widened(dtype.master).size == 0


@pytest.mark.parametrize(
    ("dtype", "master", "widens"),
    [
        (DType.F64, DType.F64, True),
        (DType.F64, DType.F32, False),
        (DType.F32, DType.F64, True),
        (DType.F32, DType.F32, True),
        (DType.F16, DType.F32, True),
        (DType.BF16, DType.F64, True),
    ],
)
def test_only_a_wider_dtype_does_not_widen(dtype: DType, master: DType, widens: bool) -> None:
    assert dtype.widens_to(master) is widens
