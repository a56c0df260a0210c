"""How a rule runs: compiled once, split over a few threads, the same bits always.

Numba compiles a rule to one fused SIMD pass that releases the GIL, so plain
threads run pieces of a large tensor in parallel. Numba's own ``parallel=True``
is out: its workqueue layer aborts the process when two threads enter it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from gradstep_server import kernel_cache

FloatArray = NDArray[np.float32] | NDArray[np.float64]
"""A flat, contiguous, aligned, writable array of master values."""

Scalar = np.float32 | np.float64
"""A coefficient of the arrays' dtype."""

Rule = Callable[..., None]
"""``rule(param, grad, *slots, scale, bound, *coefficients)``, in place."""

SERIAL_BELOW = 1_000_000
"""Elements that a rule steps on one thread: to wake a second takes longer than it saves."""

SERIAL_SUM_BELOW = 2_000_000
"""Elements that are summed on one thread; a sum does less with each than a rule."""

BLOCK = 65_536
"""Elements per partial sum: fixed, so that threads do not change the result."""

_CACHED = kernel_cache.settle(Path(__file__).parent)

_F = TypeVar("_F", bound=Callable[..., object])
_T = TypeVar("_T")


def compiled(function: _F) -> _F:
    """Compile an elementwise rule: IEEE arithmetic in the order written, no fastmath."""
    return _compile(function, error_model="numpy")


def _reduction(function: _F) -> _F:
    """Compile a sum, the only loop that may reassociate.

    In source order a float64 sum is not vectorised and takes four times as
    long. Its result is recorded in the log and never recomputed.
    """
    return _compile(function, fastmath={"reassoc"})


def _compile(function: _F, **options: object) -> _F:
    return cast("_F", numba.njit(nogil=True, cache=_CACHED, **options)(function))


@compiled
def clip(gradient: float, scale: float, bound: float) -> float:
    """Return the gradient that a rule sees: scaled, then held within ±bound.

    ``scale`` is the coefficient of the clipping norm, negative to maximize;
    ``bound`` is the clipping value, infinite for none. Both are then exact.
    """
    return min(max(gradient * scale, -bound), bound)


@compiled
def add_share(total: FloatArray, gradient: FloatArray, share: float) -> None:
    """Add a share of a gradient to a sum of them."""
    for i in range(total.size):
        total[i] += share * gradient[i]


@compiled
def round_to_bfloat16(rounded: NDArray[np.uint16], bits: NDArray[np.uint32]) -> None:
    """Round float32, given as its bits, to the bits of bfloat16: nearest, ties to even.

    A NaN stays one, quiet, with what its upper half says.
    """
    for i in range(bits.size):
        one = bits[i]
        upper = one >> np.uint32(16)
        nearest = (one + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
        is_nan = (one & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)  # beyond infinity's bits
        rounded[i] = np.uint16(upper | np.uint32(0x0040) if is_nan else nearest)


@_reduction
def _sums_of_squares(x: FloatArray, cuts: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
    for k in range(sums.size):
        block = x[cuts[k] : cuts[k + 1]]  # its indices are known not to be negative: SIMD
        total = 0.0
        for i in range(block.size):
            value = np.float64(block[i])
            total += value * value
        sums[k] = total


class Pass(NamedTuple):
    """One rule over arrays: of one size and flat, or those of a whole tensor."""

    rule: Rule
    arrays: Sequence[FloatArray]
    scalars: Sequence[Scalar]
    whole: bool = False
    """Whether the rule takes all elements at once."""

    def run(self, start: int, stop: int) -> None:
        """Do some of the elements, in place; all of them where the rule takes them at once."""
        if self.whole:
            self.rule(*self.arrays, *self.scalars)
            return
        self.rule(*[array[start:stop] for array in self.arrays], *self.scalars)


class Compute:
    """Runs rules and reductions over arrays, on up to `threads` threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(threads - 1, 1), "gradstep-compute")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def step(self, rule: Rule, arrays: Sequence[FloatArray], scalars: Sequence[float]) -> None:
        """Run ``rule(*arrays, *scalars)`` in place, scalars cast to the arrays' dtype."""
        self.run([Pass(rule, arrays, in_dtype(scalars, arrays[0].dtype))])

    def run(self, passes: Sequence[Pass]) -> None:
        """Run passes that have no array in common, in any order."""
        sizes = [one.arrays[0].size for one in passes]
        if self.threads == 1 or sum(sizes) < SERIAL_BELOW:
            for one in passes:
                one.rule(*one.arrays, *one.scalars)
            return
        pieces = [
            (one, *piece)
            for one, size in zip(passes, sizes, strict=True)
            for piece in ([(0, size)] if one.whole else self._pieces(size))
        ]
        self._share(lambda piece: piece[0].run(*piece[1:]), pieces)

    def sum_of_squares(self, x: FloatArray) -> float:
        """Return Σx² in float64; NaN or infinite if an element is (or overflows)."""
        return added(self.sums_of_squares(x, [*range(0, x.size, BLOCK), x.size]))

    def sums_of_squares(self, x: FloatArray, cuts: Sequence[int]) -> NDArray[np.float64]:
        """Return Σx² in float64 of the elements between each cut and the next.

        Args:
            x: flat.
            cuts: the first is 0, the last is its size; threads share them out.
        """
        at = np.array(cuts, np.int64)
        sums = np.empty(len(cuts) - 1)
        if self.threads == 1 or x.size < SERIAL_SUM_BELOW:
            _sums_of_squares(x, at, sums)
        else:
            count = len(cuts) // (4 * self.threads) + 1
            self._share(
                lambda k: _sums_of_squares(x, at[k : k + count + 1], sums[k : k + count]),
                range(0, sums.size, count),
            )
        return sums

    def share(self, size: int, work: Callable[[int, int], None]) -> None:
        """Call ``work(start, stop)`` for pieces of `size` elements, on all threads if many.

        Args:
            size: how many elements there are.
            work: does some of them, without the others.
        """
        if self.threads == 1 or size < SERIAL_SUM_BELOW:
            work(0, size)
        else:
            self._share(lambda piece: work(*piece), self._pieces(size))

    def _pieces(self, size: int) -> Iterable[tuple[int, int]]:
        """Cut `size` elements into pieces, large ones first.

        A thread that comes late, or is interrupted, then leaves more of them to
        the others, and all end at about the same time.
        """
        start = 0
        while start < size:
            blocks = -(-(size - start) // (2 * self.threads * BLOCK))
            stop = min(start + blocks * BLOCK, size)
            yield start, stop
            start = stop

    def _share(self, work: Callable[[_T], None], pieces: Iterable[_T]) -> None:
        """Call `work` for each piece, on all threads, this one among them."""
        shared = iter(list(pieces))

        def drain() -> None:
            for piece in shared:
                work(piece)

        others = [self._pool.submit(drain) for _ in range(self.threads - 1)]
        try:
            drain()
        finally:
            # None may still write to an array when this returns.
            running = [other for other in others if not other.cancel()]
            for other in running:
                other.exception()  # waits for its end
        for other in running:
            other.result()


def in_dtype(scalars: Sequence[float], dtype: np.dtype[Any]) -> list[Scalar]:
    """Return coefficients cast once to the dtype of the arrays.

    Otherwise float64 would reach float32 loops, where it halves the speed and
    changes the numbers.
    """
    return list(map(dtype.type, scalars))


def added(sums: Iterable[float]) -> float:
    """Return the exact sum of numbers that are not negative, rounded once.

    It is infinite where it overflows, and NaN if one of them is.
    """
    try:
        return math.fsum(sums)
    except OverflowError:
        return math.inf
