"""torch with every rounding that it leaves to the machine fixed, for Muon, which magnifies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten


class FixedRoundings(TorchDispatchMode):
    """Rounds where torch may or may not, as the machine has it.

    Sums over bfloat16 have an order: a product of matrices is added up in
    float32, column by column of the first, and a norm in float64, as norms for
    clipping are. An average is not fused: its product is rounded before the sum.
    All else is torch's own, and so is where it rounds to bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one of torch's operations."""
        if func in _SUMS and args[0].dtype is torch.bfloat16:
            return _SUMS[func](*args, **(kwargs or {})).bfloat16()
        if func is _ATEN.lerp.Scalar:
            return _average(*args)
        if func is _ATEN.lerp_.Scalar:
            return args[0].copy_(_average(*args))
        return func(*args, **(kwargs or {}))


def _average(start: torch.Tensor, end: torch.Tensor, weight: float) -> torch.Tensor:
    one, other = start.numpy(), end.numpy()
    share = one.dtype.type(weight)
    if weight < 0.5:
        return torch.from_numpy(one + share * (other - one))
    return torch.from_numpy(other - (one.dtype.type(1) - share) * (other - one))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    left, right = a.float().numpy(), b.float().numpy()
    out = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        out += left[:, k : k + 1] * right[k]
    return torch.from_numpy(out)


def _sum_with_product(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    return x.float() * beta + _product(a, b) * alpha


def _norm(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    norm: torch.Tensor = x.double().norm()
    return norm


_SUMS: Mapping[Any, Callable[..., torch.Tensor]] = {
    _ATEN.mm.default: _product,
    _ATEN.addmm.default: _sum_with_product,
    _ATEN.linalg_vector_norm.default: _norm,
}
"""torch's operations that add up."""
