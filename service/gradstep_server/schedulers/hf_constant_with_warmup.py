"""HFConstantWithWarmup: a warm-up, and then the same rate for ever."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import Reject
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import HFWarmup


class HFConstantWithWarmup(HFWarmup):
    """Raises the rate from 0 to base_lr and holds it there.

    transformers calls it `constant_with_warmup`.
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \min\left(1, \frac{t}{w}\right),"
        r" \quad w = \mathrm{num\_warmup\_steps}"
    )
    torch_name = ""
    reference = "transformers.get_constant_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 20},
        {"num_warmup_steps": 0},
        {"num_warmup_steps": 1},
    )
    rejects = (
        Reject({}, "num_warmup_steps"),
        Reject({"num_warmup_steps": -1}, "num_warmup_steps"),
        Reject({"num_warmup_steps": 2.5}, "num_warmup_steps"),
        Reject({"num_warmup_steps": 10, "num_training_steps": 100}, "num_training_steps"),
    )

    type: Literal["HFConstantWithWarmup"] = "HFConstantWithWarmup"

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr."""
        return np.full(t.shape, base_lr)
