"""HFWarmupStableDecay: a warm-up, a long time at base_lr, and a decay to a floor."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import Count, NonNegative, PositiveCount, Reject
from gradstep_server.schedulers.annealing import Values
from gradstep_server.schedulers.base import Rates, Steps
from gradstep_server.schedulers.hf_warmup import HFWarmup, half_cosines

Shape = Literal["linear", "cosine", "1-sqrt"]


class HFWarmupStableDecay(HFWarmup):
    """Raises the rate to base_lr, holds it, and lowers it to min_lr_ratio of base_lr.

    The length of the training may stay open for as long as the rate is held. The
    warm-up begins at the floor. transformers calls it `warmup_stable_decay`.
    Source: Hu et al., "MiniCPM:
    Unveiling the Potential of Small Language Models", 2024.
    """

    formula = (
        r"\eta_t = \eta_0 \cdot \begin{cases} r + (1 - r) \, f(t / w) & t < w \\"
        r" 1 & t < w + s \\ r + (1 - r) \, g((t - w - s) / d) & t < w + s + d \\"
        r" r & \text{otherwise} \end{cases},"
        r" \quad w = \mathrm{num\_warmup\_steps}, \; s = \mathrm{num\_stable\_steps}, \;"
        r" d = \mathrm{num\_decay\_steps}, \; r = \mathrm{min\_lr\_ratio}"
    )
    torch_name = ""
    reference = "transformers.get_wsd_schedule"
    examples = (
        {"num_warmup_steps": 10, "num_decay_steps": 20, "num_training_steps": 90},
        {
            "num_warmup_steps": 20,
            "num_decay_steps": 40,
            "num_stable_steps": 30,
            "warmup_type": "cosine",
            "decay_type": "1-sqrt",
            "min_lr_ratio": 0.1,
        },
        {
            "num_warmup_steps": 15,
            "num_decay_steps": 15,
            "num_stable_steps": 0,
            "warmup_type": "1-sqrt",
            "decay_type": "linear",
        },
        {"num_warmup_steps": 0, "num_decay_steps": 0, "num_stable_steps": 50, "num_cycles": 1},
    )
    rejects = (
        Reject({"num_decay_steps": 20, "num_training_steps": 90}, "num_warmup_steps"),
        Reject({"num_warmup_steps": 10, "num_training_steps": 90}, "num_decay_steps"),
        Reject({"num_warmup_steps": 10, "num_decay_steps": 20}, "num_training_steps"),
        Reject(
            {
                "num_warmup_steps": 10,
                "num_decay_steps": 20,
                "num_stable_steps": 60,
                "num_training_steps": 90,
            },
            "num_training_steps",
        ),
        Reject(
            {"num_warmup_steps": 10, "num_decay_steps": 20, "num_training_steps": 29},
            "num_training_steps",
        ),
        Reject(
            {"num_warmup_steps": 1, "num_decay_steps": 2, "num_stable_steps": -1},
            "num_stable_steps",
        ),
        Reject(
            {"num_warmup_steps": 1, "num_decay_steps": -2, "num_stable_steps": 1},
            "num_decay_steps",
        ),
        Reject(
            {
                "num_warmup_steps": 1,
                "num_decay_steps": 2,
                "num_stable_steps": 1,
                "decay_type": "exponential",
            },
            "decay_type",
        ),
        Reject(
            {
                "num_warmup_steps": 1,
                "num_decay_steps": 2,
                "num_stable_steps": 1,
                "warmup_type": "sqrt",
            },
            "warmup_type",
        ),
        Reject(
            {
                "num_warmup_steps": 1,
                "num_decay_steps": 2,
                "num_stable_steps": 1,
                "min_lr_ratio": -0.1,
            },
            "min_lr_ratio",
        ),
    )

    type: Literal["HFWarmupStableDecay"] = "HFWarmupStableDecay"
    num_decay_steps: Count
    """The number of steps from base_lr down to the floor."""

    num_stable_steps: Count | None = None
    """The number of steps at base_lr, instead of num_training_steps."""

    num_training_steps: Annotated[PositiveCount | None, Field(validate_default=True)] = None
    """The number of steps of the training; what warm-up and decay leave of it is stable."""

    warmup_type: Shape = "linear"
    """The path of the warm-up: a line, half a cosine, or 1 less the root of what is left."""

    decay_type: Shape = "cosine"
    """The path of the decay: a line, a cosine, or 1 less the root of what is over."""

    min_lr_ratio: NonNegative = 0.0
    """The share of base_lr at the first step and at the end."""

    num_cycles: NonNegative = 0.5
    """The number of waves of a decay along a cosine."""

    @field_validator("num_training_steps")
    @classmethod
    def _given_once(cls, steps: int | None, info: ValidationInfo) -> int | None:
        if "num_stable_steps" not in info.data:
            return steps
        if (steps is None) == (info.data["num_stable_steps"] is None):
            raise PydanticCustomError(
                "stable_steps", "Give either num_stable_steps or num_training_steps"
            )
        needed = sum(info.data.get(f"num_{part}_steps", 0) for part in ("warmup", "decay"))
        if steps is not None and steps < needed:
            raise PydanticCustomError(
                "training_too_short",
                "The {needed} steps of warm-up and decay must fit into the training",
                {"needed": needed},
            )
        return steps

    def warmup(self, t: Steps) -> Values:
        """Return the share of base_lr on the path up from the floor."""
        done = super().warmup(t)
        if self.warmup_type == "cosine":
            done = half_cosines((1 - done) / 2)
        elif self.warmup_type == "1-sqrt":
            done = 1 - np.sqrt(1 - np.minimum(done, 1))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * done

    def after(self, t: Steps, base_lr: float) -> Rates:
        """Return base_lr while it is held, and the path down to the floor."""
        stable = self.num_stable_steps
        if stable is None:
            stable = (self.num_training_steps or 0) - self.num_warmup_steps - self.num_decay_steps
        begun = t - self.num_warmup_steps - stable
        over = np.clip(begun / max(1, self.num_decay_steps), 0, 1)
        if self.decay_type == "cosine":
            left = half_cosines(self.num_cycles * over)
        else:
            left = 1 - (over if self.decay_type == "linear" else np.sqrt(over))
        left = np.where(begun < 0, 1.0, np.where(begun < self.num_decay_steps, left, 0.0))
        return base_lr * (self.min_lr_ratio + (1 - self.min_lr_ratio) * left)
