"""``POST /v1/backprop/linear``: the chain rule of a linear model, factor by factor."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import orjson
from fastapi import APIRouter, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from gradstep_server.backprop import BackpropError, Loss, linear
from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.kinds import NonNegative, Positive, Real
from gradstep_server.web.pointers import clause
from gradstep_server.web.problems import BODY_FAILS, responses
from gradstep_server.web.strict_route import StrictRoute


def _depth(value: object) -> str:
    if not isinstance(value, list):
        return "number"
    return "matrix" if value and isinstance(value[0], list) else "vector"


Array = Annotated[
    Annotated[Real, Tag("number")]
    | Annotated[list[Real], Field(fail_fast=True), Tag("vector")]
    | Annotated[
        list[Annotated[list[Real], Field(fail_fast=True)]], Field(fail_fast=True), Tag("matrix")
    ],
    Discriminator(_depth),
]
"""A number, a list, or a list of rows; an error names the place in the shape that was sent."""


class LinearRequest(BaseModel):
    """A linear model ŷ = θx + b, its data and its loss."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0], "theta": 0.5, "b": 0.0, "l2": 0.01}
            ]
        },
    )

    x: Array
    """The features of n samples: a list of n numbers, or n rows of d."""

    y: Array
    """The targets: n numbers, or n rows of k."""

    theta: Array
    """The weights θ: a number, d numbers, or d rows of k."""

    b: Array
    """The bias: a number, or k numbers."""

    loss: Loss = "mse"
    """The loss, averaged over all elements. With `bce` ŷ is the logit."""

    l2: NonNegative = 0.0
    """λ: adds λ‖θ‖²/2 to the loss."""

    delta: Positive = 1.0
    """Where `huber` turns from a parabola into a line."""


class Gradients(BaseModel):
    """What to step with."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    theta: Array
    """∂L/∂θ = Σ ∂L/∂ŷ · ∂ŷ/∂θ + λθ."""

    b: Array
    """∂L/∂b = Σ ∂L/∂ŷ · ∂ŷ/∂b."""


class Factors(BaseModel):
    """What the chain rule multiplies."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    dL_dyhat: Array
    """∂L/∂ŷ for each element of ŷ."""

    dyhat_dtheta: Array
    """∂ŷ/∂θ, which is x."""

    dyhat_db: Array
    """∂ŷ/∂b, which is 1."""

    dl2_dtheta: Array
    """The derivative of the penalty, λθ."""


class LinearAnswer(BaseModel):
    """One pass forward and one back."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "y_hat": [0.5, 1.0, 1.5],
                    "loss": 10.50125,
                    "grads": {"theta": -13.995, "b": -6.0},
                    "factors": {
                        "dL_dyhat": [-1.0, -2.0, -3.0],
                        "dyhat_dtheta": [1.0, 2.0, 3.0],
                        "dyhat_db": [1.0, 1.0, 1.0],
                        "dl2_dtheta": 0.005,
                    },
                }
            ]
        },
    )

    y_hat: Array
    """ŷ = θx + b."""

    loss: float
    """The mean loss, with the penalty."""

    grads: Gradients
    """The gradients, in the shapes of θ and b."""

    factors: Factors
    """The factors whose products they are."""


router = APIRouter(prefix="/v1/backprop", tags=["backprop"], route_class=StrictRoute)


@router.post(
    "/linear",
    operation_id="backpropLinear",
    summary="Differentiate a linear model's loss by its weights and bias.",
    response_model=LinearAnswer,
    responses=responses(*BODY_FAILS),
)
def backprop_linear(asked: LinearRequest) -> Response:
    """Shapes: x (n), θ and b numbers; or x (n, d), θ (d), b a number; or θ (d, k), b (k)."""
    try:
        result = linear(**dict(asked))
    except BackpropError as error:
        raise InvalidRequest(Fault(error.pointer, clause(error.detail))) from error
    found = dict(vars(result))
    answer = {
        "y_hat": found.pop("y_hat"),
        "loss": found.pop("loss"),
        "grads": {"theta": found.pop("dL_dtheta"), "b": found.pop("dL_db")},
        "factors": found,
    }
    # FastAPI's own way from arrays to JSON takes 50 times as long.
    content = orjson.dumps(answer, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


def _plain(array: NDArray[np.float64]) -> object:
    """Convert what orjson does not take: arrays without dimensions or not in C order."""
    return array.tolist()
