"""HFCosineWarmupWithMinLr: a warm-up that does not begin at 0, and a cosine to a floor."""

from __future__ import annotations

from typing import Literal

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.schedulers.annealing import Values
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_cosine_to import FLOOR_REJECTS, HFCosineTo


class HFCosineWarmupWithMinLr(HFCosineTo):
    """Raises the rate from above 0 to base_lr and lowers it to a floor along a cosine.

    The warm-up reaches base_lr at its last step, and the cosine begins one step on its
    way. transformers calls it `cosine_warmup_with_min_lr`.
    """

    formula = (
        r"\eta_t = \begin{cases} \eta_0 \left(r + (1 - r) \frac{t}{w - 1}\right) & t < w \\"
        r" \eta_{\min} + \frac{1}{2} (\eta_0 - \eta_{\min})"
        r" \left(1 + \cos\left(2 \pi c \, \frac{t + 1 - w}{T - w}\right)\right)"
        r" & t \ge w \end{cases}, \quad w = \mathrm{num\_warmup\_steps}, \;"
        r" T = \mathrm{num\_training\_steps}, \; r = \mathrm{warmup\_lr\_rate}"
        r" \text{ or } \tfrac{1}{w}, \; c = \mathrm{num\_cycles}"
    )
    torch_name = ""
    reference = "transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100, "min_lr_rate": 0.1},
        {"num_warmup_steps": 8, "num_training_steps": 60, "min_lr": 0.01, "warmup_lr_rate": 0.2},
        {"num_warmup_steps": 1, "num_training_steps": 50, "min_lr": 0, "warmup_lr_rate": 0},
        {"num_warmup_steps": 0, "num_training_steps": 30, "min_lr": 0, "num_cycles": 2},
    )
    rejects = (
        *FLOOR_REJECTS,
        Reject(
            {"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": 0, "warmup_lr_rate": -1},
            "warmup_lr_rate",
        ),
    )

    type: Literal["HFCosineWarmupWithMinLr"] = "HFCosineWarmupWithMinLr"
    warmup_lr_rate: NonNegative | None = None
    """The share of base_lr at the first step; by default one over the length of the warm-up."""

    def warmup(self, t: Steps) -> Values:
        """Return the share of base_lr at each t of the warm-up, 1 at its last step."""
        if self.warmup_lr_rate is None:
            return (t + 1) / max(1, self.num_warmup_steps)
        rest = (1 - self.warmup_lr_rate) * t / max(1, self.num_warmup_steps - 1)
        return self.warmup_lr_rate + rest

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate on the cosine one step behind each t."""
        return self.fall(self.progress(t + 1), base_lr)
