"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal

from gradstep_server.kinds import Flag, Fraction, NonNegative, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer, Scalars
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled

_MU_BASE = 0.96
"""What the paper's schedule of the momentum decays by."""


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, which grows towards β₁.

    The product of the momenta so far, `mu_product`, is kept of each tensor: a
    schedule may move β₁. Source: torch.optim.NAdam; Dozat, "Incorporating
    Nesterov Momentum into Adam", 2016.
    """

    type: Literal["NAdam"] = "NAdam"

    lr: NonNegative = 2e-3
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """The decay rates β₁ and β₂ of the first and the second moment."""

    eps: NonNegative = 1e-8
    """Added to the denominator, after bias correction, to keep it from 0."""

    weight_decay: NonNegative = 0.0
    """The coefficient λ of the decay."""

    momentum_decay: NonNegative = 4e-3
    """How fast the momentum grows to β₁, as ψ in β₁(1 − ½·0.96^{tψ})."""

    decoupled_weight_decay: Flag = False
    """Decay the parameters themselves, as AdamW does, not through the gradient."""

    formula = (
        r"\mu_t \leftarrow \beta_1\left(1 - \tfrac{1}{2}\,0.96^{t\psi}\right),\quad "
        r"m_t \leftarrow \beta_1 m_{t-1} + (1-\beta_1) g_t,\quad "
        r"v_t \leftarrow \beta_2 v_{t-1} + (1-\beta_2) g_t^2,\quad "
        r"\theta_t \leftarrow \theta_{t-1} - \frac{\eta_t}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}"
        r"\left(\frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} + "
        r"\frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^{t} \mu_i}\right)"
    )
    torch_name = "torch.optim.NAdam"
    examples = (
        {"lr": 2e-3},
        {"lr": 1e-2, "betas": [0.8, 0.99], "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
        {"lr": 1e-2, "betas": [0, 0.5], "momentum_decay": 0.1},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"betas": [0.9, 1.0]}, "betas"),
        Reject({"betas": [-0.1, 0.999]}, "betas"),
        Reject({"eps": -1e-8}, "eps"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"momentum_decay": -0.01}, "momentum_decay"),
        Reject({"decoupled_weight_decay": 1}, "decoupled_weight_decay"),
        Reject({"amsgrad": True}, "amsgrad"),
    )
    squares_gradient = True
    scalars: ClassVar[Scalars] = {"mu_product": 1.0}

    def slots(self) -> tuple[str, ...]:
        """Return the moments."""
        return ("exp_avg", "exp_avg_sq")

    def rule(self) -> Rule:
        """Return the loop."""
        return nadam_step

    def coefficients(
        self,
        lr: float,
        step: int,
        *,
        fresh: bool,  # noqa: ARG002 - zeros are NAdam's start
        mu_product: float = 1.0,
    ) -> tuple[float, ...]:
        """Return the rule's coefficients, the shares of m and of g among them."""
        beta1, beta2 = self.betas
        decay = self.weight_decay
        l2, shrink = (0.0, 1 - lr * decay) if self.decoupled_weight_decay else (decay, 1.0)
        mu, mu_next = self._mu(step), self._mu(step + 1)
        product = mu_product * mu
        of_gradient = lr * (1 - mu) / (1 - product)
        of_moment = lr * mu_next / (1 - product * mu_next)
        correction = sqrt(1 - beta2**step)
        moments = (beta1, 1 - beta1, beta2, 1 - beta2)
        return (l2, shrink, *moments, of_gradient, of_moment, correction, self.eps)

    def next_scalars(self, lr: float, step: int, *, mu_product: float = 1.0) -> Scalars:  # noqa: ARG002 - the rate has no part in it
        """Return the product of all momenta, this step's included."""
        return {"mu_product": mu_product * self._mu(step)}

    def _mu(self, step: int) -> float:
        share: float = _MU_BASE ** (step * self.momentum_decay)
        return self.betas[0] * (1 - 0.5 * share)


@compiled
def nadam_step(
    p: FloatArray,
    g: FloatArray,
    exp_avg: FloatArray,
    exp_avg_sq: FloatArray,
    scale: float,
    bound: float,
    l2: float,
    shrink: float,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    of_gradient: float,
    of_moment: float,
    correction: float,
    eps: float,
) -> None:
    """θ ← (1 − ηλ)θ − (a·g + b·m) / (√v̂ + ε), a and b being the shares of the rate."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + l2 * p[i]
        m = between(exp_avg[i], d, beta1, one_minus_beta1)
        v = beta2 * exp_avg_sq[i] + one_minus_beta2 * d * d
        exp_avg[i] = m
        exp_avg_sq[i] = v
        p[i] = shrink * p[i] - (of_gradient * d + of_moment * m) / (sqrt(v) / correction + eps)
