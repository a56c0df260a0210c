"""``POST /v1/backprop/linear``."""

from __future__ import annotations

from typing import Any

import pytest
from stateless_app import client

ASKED: dict[str, Any] = {"x": [1, 2], "y": [3, 5], "theta": 1, "b": 0, "l2": 0.5}


def test_numbers_come_back_in_the_shapes_they_were_sent_in() -> None:
    # ŷ = (1, 2), ŷ − y = (−2, −3), mean of squares 6.5, penalty 0.5 / 2.
    assert client().post("/v1/backprop/linear", json=ASKED).json() == {
        "y_hat": [1.0, 2.0],
        "loss": 6.75,
        "grads": {"theta": -2.0 - 6.0 + 0.5, "b": -5.0},
        "factors": {
            "dL_dyhat": [-2.0, -3.0],
            "dyhat_dtheta": [1.0, 2.0],
            "dyhat_db": [1.0, 1.0],
            "dl2_dtheta": 0.5,
        },
    }


@pytest.mark.parametrize(
    ("x", "y", "theta", "b"),
    [
        ([[1, 2, 3], [4, 5, 6]], [1, 2], [0.1, 0.2, 0.3], 0.5),
        ([[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4]], [[1, 2], [3, 4], [5, 6]], [0.5, 0.25]),
    ],
)
def test_gradients_have_the_shapes_of_what_they_belong_to(
    x: object, y: object, theta: object, b: object
) -> None:
    def shape(value: object) -> list[int]:
        return [len(value), *shape(value[0])] if isinstance(value, list) else []

    body = {"x": x, "y": y, "theta": theta, "b": b}
    answer = client().post("/v1/backprop/linear", json=body).json()
    assert shape(answer["y_hat"]) == shape(y)
    assert shape(answer["grads"]["theta"]) == shape(theta)
    assert shape(answer["grads"]["b"]) == shape(b)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"x": [1, "2"]}, "/x/1"),
        ({"x": [[1], [True]]}, "/x/1/0"),
        ({"x": [[1], 2]}, "/x/1"),
        ({"x": [[1, 2], [3]]}, "/x"),
        ({"x": []}, "/x"),
        ({"y": [1, 2, 3]}, "/y"),
        ({"theta": [1, 2]}, "/theta"),
        ({"b": [0]}, "/b"),
        ({"loss": "mean"}, "/loss"),
        ({"loss": "bce"}, "/y"),
        ({"l2": -1}, "/l2"),
        ({"delta": 0}, "/delta"),
        ({"lambda": 1}, "/lambda"),
        ({"theta": 1e200}, ""),
    ],
)
def test_what_cannot_be_differentiated_names_the_argument(
    change: dict[str, Any], pointer: str
) -> None:
    response = client().post("/v1/backprop/linear", json={**ASKED, **change})
    assert response.status_code == 422
    assert response.json()["pointer"] == pointer
