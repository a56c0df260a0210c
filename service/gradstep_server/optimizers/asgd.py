"""ASGD: steps that shrink, and the average of the parameters that they lead through."""

from __future__ import annotations

from typing import ClassVar, Literal

from gradstep_server.kinds import NonNegative, Real, Reject
from gradstep_server.optimizers.adam import between
from gradstep_server.optimizers.base import Optimizer, Scalars
from gradstep_server.optimizers.compute import FloatArray, Rule, clip, compiled


class ASGD(Optimizer):
    """Averaged stochastic gradient descent; the average is the slot `ax`.

    As in torch, a step uses the rate `eta` and the weight `mu` that the step
    before has computed, so that a schedule acts one step late. Source:
    torch.optim.ASGD; Polyak and Juditsky, "Acceleration of Stochastic
    Approximation by Averaging", 1992.
    """

    type: Literal["ASGD"] = "ASGD"

    lr: NonNegative = 1e-2
    """The learning rate η that a schedule starts from; 0 freezes the parameters."""

    lambd: NonNegative = 1e-4
    """The decay λ of the parameters, and of the rate."""

    alpha: NonNegative = 0.75
    """The power α by which the rate falls."""

    t0: Real = 1e6
    """The step behind which parameters are averaged; before, `ax` is a copy of them."""

    weight_decay: NonNegative = 0.0
    """The L2 coefficient: its multiple of θ is added to the gradient."""

    formula = (
        r"\theta_t \leftarrow (1 - \lambda\eta_t)\theta_{t-1} - \eta_t g_t,\quad "
        r"a_t \leftarrow a_{t-1} + \mu_t(\theta_t - a_{t-1}),\quad "
        r"\eta_{t+1} \leftarrow \frac{\eta}{(1 + \lambda\eta t)^\alpha},\quad "
        r"\mu_{t+1} \leftarrow \frac{1}{\max(1, t - t_0)}"
    )
    torch_name = "torch.optim.ASGD"
    examples = (
        {"lr": 1e-2},
        {"lr": 0.1, "lambd": 0.05, "alpha": 0.5, "t0": 3, "weight_decay": 0.1},
        {"lr": 0.05, "t0": 0, "maximize": True},
    )
    rejects = (
        Reject({"lr": -0.1}, "lr"),
        Reject({"lambd": -1e-4}, "lambd"),
        Reject({"alpha": -0.75}, "alpha"),
        Reject({"t0": float("inf")}, "t0"),
        Reject({"weight_decay": -0.01}, "weight_decay"),
        Reject({"momentum": 0.9}, "momentum"),
    )
    squares_gradient = False
    scalars: ClassVar[Scalars] = {"eta": float("inf"), "mu": 1.0}

    def slots(self) -> tuple[str, ...]:
        """Return the average of the parameters."""
        return ("ax",)

    def rule(self) -> Rule:
        """Return the loop."""
        return asgd_step

    def coefficients(
        self,
        lr: float,
        step: int,  # noqa: ARG002 - it went into eta and mu
        *,
        fresh: bool,  # noqa: ARG002 - the first mu is 1, which copies
        eta: float | None = None,
        mu: float = 1.0,
    ) -> tuple[float, ...]:
        """Return the rule's coefficients; the first step's rate is the schedule's own."""
        eta = lr if eta is None else eta
        return (self.weight_decay, 1 - self.lambd * eta, eta, mu, 1 - mu)

    def next_scalars(
        self,
        lr: float,
        step: int,
        *,
        eta: float | None = None,  # noqa: ARG002 - begins anew with each step
        mu: float = 1.0,  # noqa: ARG002 - begins anew with each step
    ) -> Scalars:
        """Return the rate and the weight of the next step."""
        # A power that falls, since one that rises may leave the range of float64.
        falling = (1 + self.lambd * lr * step) ** -self.alpha
        return {"eta": lr * falling, "mu": 1 / max(1.0, step - self.t0)}


@compiled
def asgd_step(
    p: FloatArray,
    g: FloatArray,
    ax: FloatArray,
    scale: float,
    bound: float,
    weight_decay: float,
    shrink: float,
    eta: float,
    mu: float,
    one_minus_mu: float,
) -> None:
    """θ ← (1 − λη)θ − ηg, then a ← a + μ(θ − a)."""
    for i in range(p.size):
        d = clip(g[i], scale, bound) + weight_decay * p[i]
        new = shrink * p[i] - eta * d
        ax[i] = between(ax[i], new, one_minus_mu, mu)
        p[i] = new
