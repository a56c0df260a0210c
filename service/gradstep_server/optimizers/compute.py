"""How a rule runs: compiled once, split over a few threads, the same bits always.

Numba compiles a rule to one fused SIMD pass that releases the GIL, so plain
threads run pieces of a large tensor in parallel. Numba's own ``parallel=True``
is out: its workqueue layer aborts the process when two threads enter it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from gradstep_server import kernel_cache

FloatArray = NDArray[np.float32] | NDArray[np.float64]
"""A flat, contiguous, aligned, writable array of master values."""

Rule = Callable[..., None]
"""``rule(param, grad, *slots, scale, bound, *coefficients)``, in place."""

SERIAL_BELOW = 200_000
"""Elements below which a second thread costs more than it saves (0.03 ms)."""

BLOCK = 65_536
"""Elements per partial sum: fixed, so that threads do not change the result."""

_CACHED = kernel_cache.settle(Path(__file__).parent)

_F = TypeVar("_F", bound=Callable[..., object])


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


@_reduction
def _block_sums(x: FloatArray, sums: NDArray[np.float64]) -> None:
    for block in range(sums.size):
        total = 0.0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, x.size)):
            value = np.float64(x[i])
            total += value * value
        sums[block] = total


class Compute:
    """Runs rules and reductions over arrays, on up to `threads` threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(threads - 1, 1), "gradstep-compute")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def step(self, rule: Rule, arrays: Sequence[FloatArray], scalars: Sequence[float]) -> None:
        """Run ``rule(*arrays, *scalars)`` in place, scalars cast to the arrays' dtype.

        Casting once here keeps float64 out of float32 loops, where it would
        halve the speed and change the numbers.
        """
        dtype = arrays[0].dtype.type
        coefficients = [dtype(scalar) for scalar in scalars]

        def piece(start: int, stop: int) -> None:
            rule(*(array[start:stop] for array in arrays), *coefficients)

        self._split(arrays[0].size, piece)

    def sum_of_squares(self, x: FloatArray) -> float:
        """Return Σx² in float64; NaN or infinite if an element is (or overflows)."""
        sums = np.empty(-(-x.size // BLOCK))

        def piece(start: int, stop: int) -> None:
            _block_sums(x[start:stop], sums[start // BLOCK : -(-stop // BLOCK)])

        self._split(x.size, piece)
        return math.fsum(sums) if np.isfinite(sums).all() else float(np.sum(sums))

    def _split(self, size: int, piece: Callable[[int, int], None]) -> None:
        """Call `piece` on ranges that cover `size`, cut at multiples of `BLOCK`."""
        if size < SERIAL_BELOW or self.threads == 1:
            piece(0, size)
            return
        share = -(-size // self.threads)
        share += -share % BLOCK
        others = [
            self._pool.submit(piece, start, min(start + share, size))
            for start in range(share, size, share)
        ]
        piece(0, share)
        for other in others:
            other.result()
