"""HFCosineWithRestarts: a warm-up, and then half cosines, each from the top to 0."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import TRAINING_REJECTS, HFTraining, half_cosines


class HFCosineWithRestarts(HFTraining):
    """Raises the rate from 0 to base_lr and lowers it to 0 num_cycles times.

    From the end of the training on the rate is 0. transformers calls it
    `cosine_with_restarts`.
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \begin{cases} t / w & t < w \\"
        r" \frac{1}{2} \left(1 + \cos\left(\pi \left(c \, \frac{t - w}{T - w} \bmod 1"
        r" \right)\right)\right) & w \le t < T \\ 0 & t \ge T \end{cases},"
        r" \quad w = \mathrm{num\_warmup\_steps}, \;"
        r" T = \mathrm{num\_training\_steps}, \; c = \mathrm{num\_cycles}"
    )
    torch_name = ""
    reference = "transformers.get_cosine_with_hard_restarts_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100, "num_cycles": 3},
        {"num_warmup_steps": 5, "num_training_steps": 60},
        {"num_warmup_steps": 0, "num_training_steps": 98, "num_cycles": 49},
    )
    rejects = (
        *TRAINING_REJECTS,
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "num_cycles": 0}, "num_cycles"),
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "num_cycles": 1.5}, "num_cycles"),
    )

    type: Literal["HFCosineWithRestarts"] = "HFCosineWithRestarts"
    num_cycles: PositiveCount = 1
    """The number of half cosines."""

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the cosine of the share that is over of t's half cosine."""
        progress = self.progress(t)
        # As transformers rounds it, since a restart is where this is just below 1 or at 0.
        share = self.num_cycles * progress % 1
        return base_lr * np.where(progress < 1, half_cosines(share / 2), 0.0)

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say from where the rate is 0, where it is."""
        end = max(self.num_training_steps, self.num_warmup_steps + 1)
        if seen.stop <= end:
            return []
        return [f"HFCosineWithRestarts reaches 0 at step {origin + end} and stays there."]
