"""HFPolynomial: a warm-up, and then a power of what is left, down to lr_end."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import TRAINING_REJECTS, HFTraining


class HFPolynomial(HFTraining):
    """Raises the rate from 0 to base_lr and lowers it to lr_end along a power.

    Each parameter group ends at lr_end; transformers scales lr_end by how the group's
    rate differs from the optimizer's default. transformers calls it `polynomial`.
    """

    formula = (
        r"\eta_t = \begin{cases} \eta_0 \, t / w & t < w \\"
        r" \eta_{end} + (\eta_0 - \eta_{end}) \left(\frac{T - t}{T - w}\right)^{\mathrm{power}}"
        r" & w \le t \le T \\ \eta_{end} & t > T \end{cases},"
        r" \quad w = \mathrm{num\_warmup\_steps}, \; T = \mathrm{num\_training\_steps}"
    )
    torch_name = ""
    reference = "transformers.get_polynomial_decay_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100, "power": 2},
        {"num_warmup_steps": 5, "num_training_steps": 60, "lr_end": 0.01},
        {"num_warmup_steps": 0, "num_training_steps": 90, "lr_end": 0, "power": 0.5},
    )
    rejects = (
        *TRAINING_REJECTS,
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "lr_end": -1}, "lr_end"),
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "power": -1}, "power"),
    )

    type: Literal["HFPolynomial"] = "HFPolynomial"
    lr_end: NonNegative = 1e-7
    """The rate at the end of the training and from there on, not scaled by base_lr."""

    power: NonNegative = 1.0
    """The exponent of the path."""

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return the mean of base_lr and lr_end weighted by a power of what is left."""
        left = np.maximum(self.num_training_steps - t, 0) / self.decay_steps
        weight = np.where(t > self.num_training_steps, 0.0, np.power(left, self.power))
        return base_lr * weight + self.lr_end * (1 - weight)
