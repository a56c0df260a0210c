"""Optimizers that torch lacks, written down from their papers in torch's plain operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class _Paper(torch.optim.Optimizer):
    """An optimizer that is its `update` of one tensor."""

    defaults_of: Mapping[str, Any]

    def __init__(self, tensors: list[torch.Tensor], **arguments: Any) -> None:
        super().__init__(tensors, {**self.defaults_of, **arguments})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["step"] = state.get("step", 0) + 1
                    self.update(p, -p.grad if group["maximize"] else p.grad, state, group)

    def update(self, p: torch.Tensor, g: torch.Tensor, state: Any, group: Any) -> None:
        raise NotImplementedError


class Lion(_Paper):
    """Chen et al., 2023, algorithm 2."""

    defaults_of: Mapping[str, Any] = {
        "lr": 1e-4,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "maximize": False,
    }

    def update(self, p: torch.Tensor, g: torch.Tensor, state: Any, group: Any) -> None:
        beta1, beta2 = group["betas"]
        m = state.setdefault("exp_avg", torch.zeros_like(p))
        direction = (beta1 * m + (1 - beta1) * g).sign()
        p.sub_(group["lr"] * (direction + group["weight_decay"] * p))
        m.copy_(beta2 * m + (1 - beta2) * g)


class SignSGD(_Paper):
    """Bernstein et al., 2018, algorithm 1, and with momentum algorithm 2, Signum."""

    defaults_of: Mapping[str, Any] = {
        "lr": 1e-3,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "maximize": False,
    }

    def update(self, p: torch.Tensor, g: torch.Tensor, state: Any, group: Any) -> None:
        decay, beta = group["weight_decay"], group["momentum"]
        if group["decoupled_weight_decay"]:
            p.sub_(group["lr"] * decay * p)
        else:
            g = g + decay * p
        if beta:
            m = state.setdefault("momentum_buffer", torch.zeros_like(p))
            g = m.copy_(beta * m + (1 - beta) * g)
        p.sub_(group["lr"] * g.sign())


class LAMB(_Paper):
    """Algorithm 2 of You et al., 2019, with bias correction."""

    defaults_of: Mapping[str, Any] = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "maximize": False,
    }

    def update(self, p: torch.Tensor, g: torch.Tensor, state: Any, group: Any) -> None:
        (beta1, beta2), t = group["betas"], state["step"]
        m = state.setdefault("exp_avg", torch.zeros_like(p)).lerp_(g, 1 - beta1)
        v = state.setdefault("exp_avg_sq", torch.zeros_like(p))
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        denominator = (v / (1 - beta2**t)).sqrt() + group["eps"]
        r = m / (1 - beta1**t) / denominator + group["weight_decay"] * p
        of_p, of_r = p.double().norm().item(), r.double().norm().item()
        trust = of_p / of_r if of_p and of_r else 1.0
        p.sub_(r, alpha=group["lr"] * trust)


class LARS(_Paper):
    """Algorithm 1 of You et al., 2017, the rate outside of the buffer."""

    defaults_of: Mapping[str, Any] = {
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 1e-3,
        "eps": 0.0,
        "nesterov": False,
        "maximize": False,
    }

    def update(self, p: torch.Tensor, g: torch.Tensor, state: Any, group: Any) -> None:
        decay, momentum = group["weight_decay"], group["momentum"]
        of_p, of_g = p.double().norm().item(), g.double().norm().item()
        local = 1.0
        if of_p and of_g:
            local = group["trust_coefficient"] * of_p / (of_g + decay * of_p + group["eps"])
        u = local * (g + decay * p)
        m = state.setdefault("momentum_buffer", torch.zeros_like(p)).mul_(momentum).add_(u)
        p.sub_(u + momentum * m if group["nesterov"] else m, alpha=group["lr"])


PAPERS: Mapping[str, type[_Paper]] = {kind.__name__: kind for kind in (Lion, SignSGD, LAMB, LARS)}
"""The optimizer of each such kind."""
