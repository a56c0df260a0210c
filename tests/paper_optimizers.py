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


class SignSGD(_Paper):
    """Bernstein et al., 2018, algorithm 1, and with momentum algorithm 2, Signum."""

    def __init__(
        self,
        params: list[torch.Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def update(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        decay, beta = group["weight_decay"], group["momentum"]
        if group["decoupled_weight_decay"]:
            p.sub_(group["lr"] * decay * p)
        else:
            grad = grad + decay * p
        if beta:
            m = state.setdefault("momentum_buffer", torch.zeros_like(p))
            grad = m.copy_(beta * m + (1 - beta) * grad)
        p.sub_(group["lr"] * grad.sign())


PAPERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {"Lion": Lion, "SignSGD": SignSGD}
"""The optimizer of each such kind."""
