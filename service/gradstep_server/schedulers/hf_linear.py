"""HFLinear: a warm-up, and then a straight line down to 0."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import TRAINING_REJECTS, HFTraining


class HFLinear(HFTraining):
    """Raises the rate from 0 to base_lr and lowers it to 0 along straight lines.

    What Hugging Face's Trainer does unless told otherwise (`linear`).
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \begin{cases} t / w & t < w \\"
        r" \max\left(0, \frac{T - t}{T - w}\right) & t \ge w \end{cases},"
        r" \quad w = \mathrm{num\_warmup\_steps}, \; T = \mathrm{num\_training\_steps}"
    )
    torch_name = ""
    reference = "transformers.get_linear_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100},
        {"num_warmup_steps": 0, "num_training_steps": 50},
        {"num_warmup_steps": 20, "num_training_steps": 20},
    )
    rejects = TRAINING_REJECTS

    type: Literal["HFLinear"] = "HFLinear"

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the share of the decay that is left."""
        return base_lr * (np.maximum(self.num_training_steps - t, 0) / self.decay_steps)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say from where the rate is 0, where it is."""
        if seen.stop <= self.num_training_steps:
            return []
        return [f"HFLinear reaches 0 at step {origin + self.num_training_steps} and stays there."]
