"""HFInverseSqrt: a warm-up, and then one over the square root of the step."""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradstep_server.kinds import PositiveCount, Reject
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import HFWarmup


class HFInverseSqrt(HFWarmup):
    """Raises the rate from 0 to base_lr and lowers it as one over the square root of t.

    The schedule of the first Transformer, and of trainings whose length is not known.
    transformers calls it `inverse_sqrt`.
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \begin{cases} t / w & t < w \\"
        r" \sqrt{\frac{s}{t - w + s}} & t \ge w \end{cases},"
        r" \quad w = \mathrm{num\_warmup\_steps}, \; s = \mathrm{timescale}"
    )
    torch_name = ""
    reference = "transformers.get_inverse_sqrt_schedule"
    examples = (
        {"num_warmup_steps": 10},
        {"num_warmup_steps": 5, "timescale": 50},
        {"num_warmup_steps": 0},
    )
    rejects = (
        Reject({}, "num_warmup_steps"),
        Reject({"num_warmup_steps": -1}, "num_warmup_steps"),
        Reject({"num_warmup_steps": 5, "timescale": 0}, "timescale"),
        Reject({"num_warmup_steps": 5, "timescale": 2.5}, "timescale"),
    )

    type: Literal["HFInverseSqrt"] = "HFInverseSqrt"
    timescale: PositiveCount | None = None
    """How slowly the rate falls: after three times as many steps it is halved. By default
    num_warmup_steps, or 10,000 if that is 0."""

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr over the square root of the steps behind the warm-up, scaled."""
        scale = self.timescale or self.num_warmup_steps or 10_000
        return base_lr / np.sqrt((t - self.num_warmup_steps + scale) / scale)
