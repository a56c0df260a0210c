"""The norms that clipping needs, and the search for what no step may use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from session_states import COMPUTE

from gradstep_server.optimizers import Clipping
from gradstep_server.optimizers.clipping import (
    first_unusable,
    part_norms,
    scale_parts,
    tensor_norm,
)

NO_CLIPPING = Clipping(1.0, math.inf, clipped=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_is_that_of_float64(dtype: type[Any]) -> None:
    x = np.random.default_rng(0).standard_normal(300_001).astype(dtype)
    expected = math.sqrt(math.fsum(np.square(x.astype(np.float64))))
    assert tensor_norm(x, COMPUTE) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([0.0], 0.0),
        ([3e200, -4e200], 5e200),
        ([1e200] * 4, 2e200),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], math.inf),
        ([1.7e308] * 4, math.inf),
    ],
)
def test_a_norm_of_large_elements_does_not_overflow_before_it_must(
    values: list[float], expected: float
) -> None:
    assert tensor_norm(np.array(values), COMPUTE) == pytest.approx(expected, rel=1e-15)


def test_a_norm_of_nan_is_nan() -> None:
    assert math.isnan(tensor_norm(np.array([1.0, math.nan, 1e200]), COMPUTE))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [1, 2, 5, 10])
def test_the_norms_of_equal_parts_are_those_of_float64(dtype: type[Any], parts: int) -> None:
    x = np.random.default_rng(1).standard_normal(300_010).astype(dtype)
    expected = [math.sqrt(math.fsum(np.square(part))) for part in np.split(x.astype(float), parts)]
    assert part_norms(x, parts, COMPUTE).tolist() == pytest.approx(expected, rel=1e-13)


def test_the_norms_of_parts_do_not_overflow_before_they_must() -> None:
    x = np.array([3e200, -4e200, 0.0, 0.0, 5.0, 0.0])
    assert part_norms(x, 3, COMPUTE).tolist() == pytest.approx([5e200, 0, 5], rel=1e-15)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_norm_of_a_part_is_not_finite_where_an_element_is_not(value: float) -> None:
    norms = part_norms(np.array([3.0, 4.0, value, 1.0]), 2, COMPUTE)
    assert norms[0] == 5
    assert not math.isfinite(norms[1])


def test_parts_are_scaled_in_place() -> None:
    gradient = np.array([1, 2, 3, 4, 5, 6], np.float32)
    scale_parts(gradient, np.array([1, 0.5, 0.25], np.float32))
    assert gradient.tolist() == [1, 2, 1.5, 2, 1.25, 1.5]


def unusable(values: list[float], applied: Clipping | None, *, squared: bool) -> int | None:
    gradient = np.array(values)
    return first_unusable(gradient, tensor_norm(gradient, COMPUTE), applied, squared=squared)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_non_finite_element_is_found(value: float, squared: bool) -> None:
    assert unusable([1.0, value, value], None, squared=squared) == 1


@pytest.mark.parametrize(
    ("values", "applied", "squared", "expected"),
    [
        ([1.0, 1e200], NO_CLIPPING, False, None),
        ([1.0, 1e200], NO_CLIPPING, True, 1),
        ([1.0, 1e200], Clipping(1e-100, math.inf, clipped=True), True, None),
        ([1.0, 1e200], Clipping(0.5, math.inf, clipped=True), True, 1),
        ([1.0, 1e200], Clipping(1.0, 1.0, clipped=True), True, None),
        ([1.0, 1e200], Clipping(1.0, 1e180, clipped=True), True, 1),
        ([1e154] * 9, NO_CLIPPING, True, None),
        ([1.0, 1e200], Clipping(0.0, math.inf, clipped=True), True, None),
    ],
)
def test_an_element_whose_square_overflows_after_clipping_is_found(
    values: list[float], applied: Clipping, squared: bool, expected: int | None
) -> None:
    assert unusable(values, applied, squared=squared) == expected
