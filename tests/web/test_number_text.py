"""Arrays as JSON text: the same bytes, however often a number is repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradstep_server.web.number_text import number_text

SPECIAL = [0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308, 1e16, 1e-7, float("nan")]


def written(values: NDArray[Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


@given(
    values=st.lists(st.sampled_from(SPECIAL) | st.floats(), min_size=1, max_size=30),
    length=st.integers(1, 300),
    more=st.integers(0, 1_500),
)
def test_numbers_are_written_as_orjson_writes_them_one_by_one(
    values: list[float], length: int, more: int
) -> None:
    array = np.repeat(np.array(values), length)
    array = np.concatenate([array, np.full(more, values[-1])])
    assert number_text(array) == written(array)


@pytest.mark.parametrize("length", [1, 31, 33, 1_000, 70_000])
def test_whole_numbers_too(length: int) -> None:
    array = np.repeat(np.array([-3, 0, 2**53]), length)
    assert number_text(array) == written(array)


def test_nothing_that_differs_in_a_bit_is_taken_for_the_same() -> None:
    runs = [0.0, -0.0, 0.1, float(np.nextafter(0.1, 1))]
    texts = bytes(number_text(np.repeat(np.array(runs), 1_000))).decode().split(",")
    assert texts == [repr(value) for value in runs for _ in range(1_000)]


def test_a_rate_that_stands_still_is_read_as_it_was() -> None:
    rates = np.repeat(np.array([0.1 * 0.9**fall for fall in range(100)]), 1_000)
    assert orjson.loads(b"[" + number_text(rates) + b"]") == rates.tolist()
