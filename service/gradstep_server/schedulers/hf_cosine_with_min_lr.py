"""HFCosineWithMinLr: a warm-up, and then a cosine down to a floor."""

from __future__ import annotations

from typing import Literal

from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_cosine_to import FLOOR_REJECTS, HFCosineTo


class HFCosineWithMinLr(HFCosineTo):
    """Raises the rate from 0 to base_lr and lowers it to a floor along half a cosine.

    Past the end of the training the cosine goes on. A floor given as min_lr is that of
    each parameter group; transformers scales it by how the group's rate differs from
    the optimizer's default. transformers calls it `cosine_with_min_lr`.
    """

    formula = (
        r"\eta_t = \begin{cases} \eta_0 \, t / w & t < w \\"
        r" \eta_{\min} + \frac{1}{2} (\eta_0 - \eta_{\min})"
        r" \left(1 + \cos\left(2 \pi c \, \frac{t - w}{T - w}\right)\right)"
        r" & t \ge w \end{cases}, \quad w = \mathrm{num\_warmup\_steps}, \;"
        r" T = \mathrm{num\_training\_steps}, \; c = \mathrm{num\_cycles}"
    )
    torch_name = ""
    reference = "transformers.get_cosine_with_min_lr_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100, "min_lr_rate": 0.1},
        {"num_warmup_steps": 0, "num_training_steps": 60, "min_lr": 0.01, "num_cycles": 1},
        {"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": 0},
    )
    rejects = FLOOR_REJECTS

    type: Literal["HFCosineWithMinLr"] = "HFCosineWithMinLr"

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return the rate on the cosine at each t."""
        return self.fall(self.progress(t), base_lr)
