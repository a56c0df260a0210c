"""Optimizers that torch lacks, written down from their papers in torch's plain operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


class _Paper(torch.optim.Optimizer):
    """Steps each parameter that has a gradient by `update`."""

    def step(self) -> None:  # type: ignore[override] # no closure: nothing is evaluated anew
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    grad = -p.grad if group["maximize"] else p.grad
                    self.update(p, grad, self.state[p], group)

    def update(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        raise NotImplementedError


class Lion(_Paper):
    """Chen et al., 2023, algorithm 2."""

    def __init__(
        self,
        params: list[torch.Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        )

    def update(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        m = state.setdefault("exp_avg", torch.zeros_like(p))
        direction = (beta1 * m + (1 - beta1) * grad).sign()
        p.sub_(group["lr"] * (direction + group["weight_decay"] * p))
        m.copy_(beta2 * m + (1 - beta2) * grad)


PAPERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {"Lion": Lion}
"""The optimizer of each such kind."""
