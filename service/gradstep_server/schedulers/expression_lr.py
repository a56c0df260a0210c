"""ExpressionLR: the rate is a formula in t."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gradstep_server.kinds import Reject
from gradstep_server.schedulers.base import Rates, Schedule, Steps
from gradstep_server.schedulers.expression import Expression, ExpressionError

MAX_LENGTH = 1_000
"""The most characters of a formula."""

NAMES = frozenset({"t", "base_lr"})
"""What a formula may use beside constants."""


@lru_cache(maxsize=256)
def _parsed(text: str) -> Expression:
    return Expression(text, NAMES)


def _is_expression(text: str) -> str:
    try:
        _parsed(text)
    except ExpressionError as error:
        raise PydanticCustomError("expression", "{problem}", {"problem": str(error)}) from None
    return text


class ExpressionLR(Schedule):
    """Computes the rate by a formula, as torch's LambdaLR does by a function.

    A formula is made of numbers, t, base_lr, pi and e; + - * / // % and **;
    comparisons, and, or, not; `a if condition else b`; and abs, ceil, cos, exp, floor,
    log, max, min, sin, sqrt, tanh. Its value is the rate itself, so most formulas
    begin with `base_lr *`.
    """

    formula = r"\eta_t = f(t, \eta_0)"
    torch_name = ""
    examples = (
        {"expression": "base_lr * 0.5 * (1 + cos(pi * min(t, 80) / 80))"},
        {"expression": "base_lr * (t + 1) / 10 if t < 10 else base_lr * sqrt(10 / (t + 1))"},
        {"expression": "max(base_lr * exp(-0.05 * t), 1e-4) * (0.5 + abs(sin(t / 7)) ** 2)"},
        {"expression": "base_lr * 0.5 ** floor(t / 20) if not (t >= 60 or t == 7) else 0"},
        {"expression": "base_lr * (1 + tanh(-(t - 40) / 9)) / 2 + log(t % 9 + e) // 2 * 1e-3"},
        {"expression": "0.01 if 10 <= t < 20 and base_lr > 0.05 else base_lr / ceil((t + 1) / 30)"},
    )
    rejects = (
        Reject({}, "expression"),
        Reject({"expression": ""}, "expression"),
        Reject({"expression": 0.1}, "expression"),
        Reject({"expression": "base_lr *"}, "expression"),
        Reject({"expression": "base_lr * x"}, "expression"),
        Reject({"expression": "t < 5"}, "expression"),
        Reject({"expression": "1 if t else 2"}, "expression"),
        Reject({"expression": "sqrt(t, 2)"}, "expression"),
        Reject({"expression": "__import__('os')"}, "expression"),
        Reject({"expression": "+".join(["t"] * 200)}, "expression"),
        Reject({"expression": "t" + " " * MAX_LENGTH}, "expression"),
        Reject({"expression": "base_lr", "gamma": 0.1}, "gamma"),
    )

    type: Literal["ExpressionLR"] = "ExpressionLR"
    expression: Annotated[
        str, Field(min_length=1, max_length=MAX_LENGTH), AfterValidator(_is_expression)
    ]
    """The formula, such as `base_lr / sqrt(t + 1)`."""

    def rule(self, t: Steps, base_lr: float) -> Rates:
        """Return the formula's value at each t."""
        value = _parsed(self.expression)(t=t.astype(np.float64), base_lr=np.float64(base_lr))
        return np.array(np.broadcast_to(value, t.shape), dtype=np.float64)
