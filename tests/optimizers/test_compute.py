"""How rules and reductions run: the same bits on any number of threads."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gradstep_server.optimizers import SGD, AdamW, Compute, Pass, added, in_dtype
from gradstep_server.optimizers.compute import BLOCK, SERIAL_BELOW, SERIAL_SUM_BELOW, clip

SIZES = [
    0,
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    SERIAL_BELOW - 1,
    SERIAL_BELOW,
    SERIAL_BELOW + 1,
    4 * BLOCK,
    4 * BLOCK + 1,
    5 * BLOCK - 1,
    SERIAL_SUM_BELOW + 1,
]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@pytest.fixture(params=[2, 3])
def threaded(request: pytest.FixtureRequest) -> Iterator[Compute]:
    """Return a computer of more than one thread."""
    compute = Compute(request.param)
    yield compute
    compute.close()


@pytest.fixture
def serial() -> Iterator[Compute]:
    """Return a computer of one thread."""
    compute = Compute(1)
    yield compute
    compute.close()


@DTYPES
@pytest.mark.parametrize("size", SIZES)
def test_a_step_has_the_same_bits_on_any_number_of_threads(
    size: int, dtype: type[Any], serial: Compute, threaded: Compute
) -> None:
    optimizer = AdamW(lr=0.1)
    rng = np.random.default_rng(size)
    given = [rng.standard_normal(size).astype(dtype) for _ in range(4)]
    given[3] = abs(given[3])
    scalars = (0.7, 0.5, *optimizer.coefficients(0.1, 3, fresh=False))
    results = []
    for compute in (serial, threaded):
        arrays = [array.copy() for array in given]
        compute.step(optimizer.rule(), arrays, scalars)
        results.append([array.tobytes() for array in arrays])
    assert results[0] == results[1]
    assert not size or results[0][0] != given[0].tobytes()


@DTYPES
@pytest.mark.parametrize("size", SIZES)
def test_a_sum_has_the_same_bits_on_any_number_of_threads_and_is_accurate(
    size: int, dtype: type[Any], serial: Compute, threaded: Compute
) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(dtype)
    total = serial.sum_of_squares(x)
    assert threaded.sum_of_squares(x) == total
    assert total == pytest.approx(math.fsum(np.square(x.astype(np.float64))), rel=1e-13)


def test_a_sum_of_a_million_float32_is_not_accumulated_in_float32(serial: Compute) -> None:
    x = np.full(1_000_003, 0.1, np.float32)
    exact = 1_000_003 * float(np.float32(0.1)) ** 2
    assert serial.sum_of_squares(x) == pytest.approx(exact, rel=1e-13)


@DTYPES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, BLOCK, SERIAL_BELOW])
def test_a_sum_shows_a_non_finite_element_wherever_it_is(
    at: int, value: float, dtype: type[Any], threaded: Compute
) -> None:
    x = np.ones(SERIAL_BELOW + 1, dtype)
    x[at] = value
    assert not math.isfinite(threaded.sum_of_squares(x))


def test_a_sum_that_overflows_is_infinite(serial: Compute) -> None:
    assert serial.sum_of_squares(np.full(3 * BLOCK, 1e160)) == math.inf
    assert serial.sum_of_squares(np.full(3 * BLOCK, 1e152)) == math.inf


@DTYPES
def test_scalars_keep_the_dtype_of_the_arrays(dtype: type[Any], serial: Compute) -> None:
    seen: list[Any] = []

    def rule(x: Any, *scalars: Any) -> None:
        seen.extend([x.dtype, *(scalar.dtype for scalar in scalars)])

    serial.step(rule, [np.ones(3, dtype)], (0.1, 2, math.inf))
    assert seen == [np.dtype(dtype)] * 4


@pytest.mark.parametrize(
    ("gradient", "scale", "bound", "expected"),
    [
        (3.0, 1.0, math.inf, 3.0),
        (3.0, -1.0, math.inf, -3.0),
        (3.0, 0.5, math.inf, 1.5),
        (3.0, 1.0, 2.0, 2.0),
        (-3.0, 1.0, 2.0, -2.0),
        (3.0, -1.0, 2.0, -2.0),
        (0.0, -1.0, 2.0, 0.0),
    ],
)
def test_a_gradient_is_scaled_and_then_bounded(
    gradient: float, scale: float, bound: float, expected: float
) -> None:
    assert clip(gradient, scale, bound) == expected


def test_a_failure_in_a_thread_is_raised(threaded: Compute) -> None:
    def rule(x: Any) -> None:
        if not x[0]:
            raise FloatingPointError

    x = np.zeros(SERIAL_BELOW + BLOCK)
    x[0] = 1.0
    with pytest.raises(FloatingPointError):
        threaded.step(rule, [x], ())


def test_passes_over_many_arrays_have_the_same_bits_on_any_number_of_threads(
    serial: Compute, threaded: Compute
) -> None:
    rules = [AdamW(), SGD(momentum=0.9), SGD()]
    results = []
    for compute in (serial, threaded):
        rng = np.random.default_rng(5)
        passes = []
        for number, size in enumerate([1, 3 * BLOCK + 1, 0, SERIAL_BELOW, 7, BLOCK]):
            optimizer = rules[number % len(rules)]
            arrays = [abs(rng.standard_normal(size)) for _ in range(2 + len(optimizer.slots()))]
            scalars = (1.0, math.inf, *optimizer.coefficients(0.1, 2, fresh=False))
            passes.append(Pass(optimizer.rule(), arrays, in_dtype(scalars, arrays[0].dtype)))
        compute.run(passes)
        results.append([array.tobytes() for one in passes for array in one.arrays])
    assert results[0] == results[1]


def test_sums_lie_between_their_cuts_on_any_number_of_threads(
    serial: Compute, threaded: Compute
) -> None:
    x = np.random.default_rng(6).standard_normal(SERIAL_SUM_BELOW + 5)
    cuts = [0, 0, 3, *range(100, x.size, BLOCK), x.size, x.size]
    sums = serial.sums_of_squares(x, cuts)
    assert threaded.sums_of_squares(x, cuts).tolist() == sums.tolist()
    expected = [np.square(x[a:b]).sum() for a, b in itertools.pairwise(cuts)]
    np.testing.assert_allclose(sums, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ([], 0.0),
        ([1.0, 1e100, 2.0**-53], 1e100),
        ([1.7e308, 1.7e308], math.inf),
        ([1.0, math.inf], math.inf),
    ],
)
def test_sums_are_added_exactly_or_are_infinite(sums: list[float], expected: float) -> None:
    assert added(sums) == expected


def test_a_sum_with_nan_is_nan() -> None:
    assert math.isnan(added([math.nan, math.inf, 1.0]))


def test_no_thread_writes_any_more_when_a_failure_is_raised(threaded: Compute) -> None:
    fails, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def rule(x: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            assert goes_on.wait(10)
            fails.set()
            raise FloatingPointError
        goes_on.set()
        assert fails.wait(10)
        ended.set()

    with pytest.raises(FloatingPointError):
        threaded.step(rule, [np.zeros(SERIAL_BELOW + 4 * BLOCK)], ())
    assert ended.is_set()


@pytest.mark.parametrize("size", SIZES)
def test_pieces_cover_every_element_once_and_the_last_are_small(
    size: int, threaded: Compute
) -> None:
    x = np.zeros(size)
    pieces: list[int] = []

    def rule(x: Any) -> None:
        x += 1
        pieces.append(x.size)

    threaded.step(rule, [x], ())
    assert (x == 1).all()
    assert size < SERIAL_BELOW or min(pieces) <= BLOCK
