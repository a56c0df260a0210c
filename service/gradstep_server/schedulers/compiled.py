"""How a loop over steps is compiled, where a schedule must be stepped through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

from gradstep_server import kernel_cache

_CACHED = kernel_cache.settle(Path(__file__).parent)

_F = TypeVar("_F", bound=Callable[..., object])


def compiled(signature: str) -> Callable[[_F], _F]:
    """Compile a loop for one signature, at import or from the cache: IEEE arithmetic as written.

    Args:
        signature: the types, as Numba writes them.
    """

    def compile_loop(function: _F) -> _F:
        options = {"nogil": True, "cache": _CACHED, "error_model": "numpy"}
        return cast("_F", numba.njit(signature, **options)(function))

    return compile_loop
