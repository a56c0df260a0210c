"""HFCosine: a warm-up, and then a cosine down to 0."""

from __future__ import annotations

from typing import Literal

from gradstep_server.kinds import NonNegative, Reject
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import TRAINING_REJECTS, HFTraining, half_cosines


class HFCosine(HFTraining):
    """Raises the rate from 0 to base_lr and lowers it to 0 along half a cosine.

    With another num_cycles it swings as often between base_lr and 0. Past the end of
    the training the cosine goes on. transformers calls it `cosine`.
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \begin{cases} t / w & t < w \\"
        r" \frac{1}{2} \left(1 + \cos\left(2 \pi c \, \frac{t - w}{T - w}\right)\right)"
        r" & t \ge w \end{cases}, \quad w = \mathrm{num\_warmup\_steps}, \;"
        r" T = \mathrm{num\_training\_steps}, \; c = \mathrm{num\_cycles}"
    )
    torch_name = ""
    reference = "transformers.get_cosine_schedule_with_warmup"
    examples = (
        {"num_warmup_steps": 10, "num_training_steps": 100},
        {"num_warmup_steps": 0, "num_training_steps": 60, "num_cycles": 1.5},
        {"num_warmup_steps": 30, "num_training_steps": 90, "num_cycles": 0},
    )
    rejects = (
        *TRAINING_REJECTS,
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "num_cycles": -1}, "num_cycles"),
        Reject({"num_warmup_steps": 5, "num_training_steps": 50, "min_lr": 0.1}, "min_lr"),
    )

    type: Literal["HFCosine"] = "HFCosine"
    num_cycles: NonNegative = 0.5
    """The number of waves; half a one goes from the top to 0."""

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr times the cosine of the share of the decay that is over."""
        return base_lr * half_cosines(self.num_cycles * self.progress(t))

    def notes(self, seen: range, origin: int = 0) -> list[str]:
        """Say that the cosine goes on, where it does."""
        return self.goes_on(seen, origin)
