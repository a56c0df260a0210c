"""Clipping, the norm that it needs, and the search for what no step may use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from session_states import COMPUTE

from gradstep_server.optimizers import Clip, ClipNorm, Clipping, ClipValue
from gradstep_server.optimizers.clipping import clipping, first_unusable, tensor_norm

CLIP: TypeAdapter[ClipNorm | ClipValue] = TypeAdapter(Clip)
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


@settings(derandomize=True, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20),
    max_norm=st.floats(1e-3, 1e3),
)
def test_clipping_by_norm_scales_as_torch_does(values: list[float], max_norm: float) -> None:
    gradient = np.array(values)
    norm = tensor_norm(gradient, COMPUTE)
    done = clipping(ClipNorm(type="norm", max_norm=max_norm), norm, [gradient])
    weight = torch.zeros(len(values), dtype=torch.float64)
    weight.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([weight], max_norm)
    np.testing.assert_allclose(gradient * done.scale, weight.grad.numpy(), rtol=1e-14, atol=0)
    assert done.bound == math.inf
    assert done.clipped == (done.scale < 1)


@pytest.mark.parametrize(
    ("gradients", "clipped"), [([[2.0], []], False), ([[1.0], [-2.5]], True), ([[]], False)]
)
def test_clipping_by_value_says_whether_it_changes_anything(
    gradients: list[list[float]], clipped: bool
) -> None:
    arrays = [np.array(values) for values in gradients]
    done = clipping(ClipValue(type="value", value=2.0), 3.0, arrays)
    assert done == Clipping(1.0, 2.0, clipped)


def test_no_clipping_changes_nothing() -> None:
    assert clipping(None, 1e300, [np.array([1e300])]) == NO_CLIPPING


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "norm", "max_norm": 0},
        {"type": "norm", "max_norm": True},
        {"type": "norm", "value": 1.0},
        {"type": "value", "value": math.inf},
        {"type": "value"},
        {"type": "other", "value": 1.0},
        {"max_norm": 1.0},
    ],
    ids=str,
)
def test_clipping_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CLIP.validate_python(wrong)


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
