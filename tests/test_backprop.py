"""The chain rule against autograd, against finite differences, and in training."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from gradstep_server.backprop import Array, BackpropError, LinearBackprop, Loss, linear

LOSSES: tuple[Loss, ...] = get_args(Loss)
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "numbers": ((7,), (), ()),
    "one output": ((7, 3), (3,), ()),
    "one feature": ((5, 1), (1,), ()),
    "many outputs": ((6, 3), (3, 4), (4,)),
    "one sample": ((1, 2), (2, 1), (1,)),
}
EVERY_CASE = [(loss, shape) for loss in LOSSES for shape in SHAPES]


def problem(loss: Loss, shape: str, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x_shape, theta_shape, b_shape = SHAPES[shape]
    y_shape = (x_shape[0], *theta_shape[1:])
    y = rng.random(y_shape) if loss == "bce" else 2 * rng.standard_normal(y_shape)
    x, theta, b = (rng.standard_normal(s) for s in (x_shape, theta_shape, b_shape))
    return x, y, np.asarray(theta), np.asarray(b)


def autograd(
    x: Array, y: Array, theta: Array, b: Array, loss: Loss, l2: float, delta: float
) -> tuple[float, Array, Array, Array]:
    weights = torch.tensor(theta, requires_grad=True)
    bias = torch.tensor(b, requires_grad=True)
    features, targets = torch.tensor(x), torch.tensor(y)
    y_hat = features * weights + bias if weights.ndim == 0 else features @ weights + bias
    y_hat.retain_grad()
    losses: dict[str, torch.nn.Module] = {
        "mse": torch.nn.MSELoss(),
        "mae": torch.nn.L1Loss(),
        "huber": torch.nn.HuberLoss(delta=delta),
        "bce": torch.nn.BCEWithLogitsLoss(),
    }
    total = losses[loss](y_hat, targets) + l2 * weights.square().sum() / 2
    total.backward()
    grads = [tensor.grad for tensor in (y_hat, weights, bias)]
    arrays = [grad.numpy() for grad in grads if grad is not None]
    return float(total.detach()), arrays[0], arrays[1], arrays[2]


@pytest.mark.parametrize(("loss", "shape"), EVERY_CASE)
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_gradients_are_those_of_autograd(loss: Loss, shape: str, l2: float) -> None:
    x, y, theta, b = problem(loss, shape)
    value, slope, theta_grad, b_grad = autograd(x, y, theta, b, loss, l2, 0.7)
    result = linear(x, y, theta, b, loss=loss, l2=l2, delta=0.7)
    assert result.loss == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(result.dL_dyhat, slope, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.dL_dtheta, theta_grad, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.dL_db, b_grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("loss", "shape"), EVERY_CASE)
def test_the_gradients_are_the_slopes_of_the_loss(loss: Loss, shape: str) -> None:
    x, y, theta, b = problem(loss, shape, seed=1)
    result = linear(x, y, theta, b, loss=loss, l2=0.1)
    h = 1e-6

    def total(theta: Array, b: Array) -> float:
        return linear(x, y, theta, b, loss=loss, l2=0.1).loss

    for index in np.ndindex(theta.shape):
        shift = np.zeros_like(theta)
        shift[index] = h
        slope = (total(theta + shift, b) - total(theta - shift, b)) / (2 * h)
        assert result.dL_dtheta[index] == pytest.approx(slope, abs=1e-7)
    for index in np.ndindex(b.shape):
        shift = np.zeros_like(b)
        shift[index] = h
        slope = (total(theta, b + shift) - total(theta, b - shift)) / (2 * h)
        assert result.dL_db[index] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("loss", "shape"), EVERY_CASE)
def test_the_factors_multiply_to_the_gradients(loss: Loss, shape: str) -> None:
    x, y, theta, b = problem(loss, shape, seed=2)
    result = linear(x, y, theta, b, loss=loss, l2=0.5)
    assert result.y_hat.shape == result.dL_dyhat.shape == y.shape
    assert result.dL_dtheta.shape == result.dl2_dtheta.shape == theta.shape
    assert result.dL_db.shape == b.shape
    np.testing.assert_array_equal(result.dyhat_dtheta, x)
    np.testing.assert_array_equal(result.dyhat_db, np.ones_like(y))
    np.testing.assert_array_equal(result.dl2_dtheta, 0.5 * theta)
    by_theta = np.tensordot(result.dyhat_dtheta, result.dL_dyhat, axes=(0, 0))
    np.testing.assert_allclose(result.dL_dtheta, by_theta + result.dl2_dtheta, atol=1e-15)
    by_b = (result.dL_dyhat * result.dyhat_db).sum(axis=0)
    np.testing.assert_allclose(result.dL_db, by_b, atol=1e-15)


def test_a_case_worked_out_by_hand() -> None:
    result = linear([1, 2], [1, 5], 2, 0, l2=0.5)
    # ŷ = (2, 4), errors (1, −1), mean square 1, penalty 0.5 · 4 / 2 = 1.
    assert result.loss == 2
    assert result.dL_dyhat.tolist() == [1, -1]
    assert result.dL_dtheta == 1 * 1 - 1 * 2 + 0.5 * 2
    assert result.dL_db == 0


def test_large_logits_neither_overflow_nor_lose_digits() -> None:
    result = linear([-800.0, -50.0, 50.0, 800.0], [0, 0, 1, 0], 1, 0, loss="bce")
    assert result.loss == pytest.approx((2 * np.exp(-50.0) + 800) / 4, rel=1e-15)
    np.testing.assert_allclose(4 * result.dL_dyhat, [0, np.exp(-50), -np.exp(-50), 1], atol=1e-16)
    kept = linear([-50.0], [0], 1, 0, loss="bce")
    assert kept.loss == pytest.approx(np.exp(-50), rel=1e-12)
    assert kept.dL_dyhat[0] == pytest.approx(np.exp(-50), rel=1e-12)


def test_the_arguments_are_not_modified() -> None:
    arguments = problem("mse", "many outputs")
    copies = [array.copy() for array in arguments]
    linear(*arguments, l2=1.0)
    for array, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def train(x: Array, y: Array, theta: Array, b: Array, steps: int) -> LinearBackprop:
    for _ in range(steps):
        result = linear(x, y, theta, b)
        theta = theta - 0.1 * result.dL_dtheta
        b = b - 0.1 * result.dL_db
    return linear(x, y, theta, b)


def test_a_regression_trained_with_it_finds_the_line() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 2))
    y = x @ [2.0, -3.0] + 0.5
    final = train(x, y, np.zeros(2), np.zeros(()), steps=200)
    print(f"\nregression: loss {final.loss:.1e} after 200 steps of SGD")
    assert final.loss < 1e-3


BAD: list[tuple[str, dict[str, Any]]] = [
    ("/x", {"x": []}),
    ("/x", {"x": [[]]}),
    ("/x", {"x": 3}),
    ("/x", {"x": [[1, 2], [3]]}),
    ("/x", {"x": ["1", "2"]}),
    ("/x", {"x": [True, False]}),
    ("/x", {"x": None}),
    ("/x", {"x": [[[1.0]]]}),
    ("/x", {"x": [1.0, float("nan")]}),
    ("/x", {"x": [10**400, 1]}),
    ("/theta", {"theta": [1.0]}),
    ("/theta", {"x": [[1, 2], [3, 4]], "theta": 1}),
    ("/theta", {"x": [[1, 2], [3, 4]], "theta": [1, 2, 3]}),
    ("/theta", {"x": [[1, 2], [3, 4]], "theta": [[], []], "b": [], "y": [[], []]}),
    ("/theta", {"theta": float("inf")}),
    ("/b", {"b": [0.0]}),
    ("/b", {"x": [[1.0]], "theta": [[1.0]], "b": 0, "y": [[1.0]]}),
    ("/y", {"y": [1.0]}),
    ("/y", {"y": [[1.0], [2.0]]}),
    ("/y", {"y": [0, 1.5], "loss": "bce"}),
    ("/y", {"y": [-0.1, 1], "loss": "bce"}),
    ("/loss", {"loss": "cross"}),
    ("/l2", {"l2": -1.0}),
    ("/l2", {"l2": float("nan")}),
    ("/delta", {"delta": 0.0}),
    ("/delta", {"delta": float("inf")}),
    ("", {"x": [1e200, 1e200]}),
    ("", {"x": [1e308, 1e308], "theta": 1e308}),
]


@pytest.mark.parametrize(("pointer", "changes"), BAD)
def test_a_bad_argument_is_refused_by_name(pointer: str, changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {"x": [1, 2], "y": [1, 0], "theta": 1, "b": 0}
    with pytest.raises(BackpropError) as caught:
        linear(**(good | changes))
    assert caught.value.pointer == pointer
    assert caught.value.detail.endswith(".")
