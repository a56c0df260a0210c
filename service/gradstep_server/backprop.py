"""The chain rule for a linear model: ŷ = θx + b and L = mean loss(ŷ, y) + λ‖θ‖²/2.

Every factor of the chain is returned beside its product, to be looked at:
∂L/∂θ = ∂L/∂ŷ · ∂ŷ/∂θ + λθ and ∂L/∂b = ∂L/∂ŷ · ∂ŷ/∂b. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

Loss = Literal["mse", "mae", "huber", "bce"]
"""A loss, averaged over all elements as torch's ``reduction="mean"`` does."""


class BackpropError(ValueError):
    """Raised when an argument cannot be used; `pointer` is its JSON pointer."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


@dataclass(frozen=True)
class LinearBackprop:
    """A forward and a backward pass, factor by factor, in the shapes of the arguments."""

    y_hat: Array
    """θx + b."""

    loss: float
    """The mean loss, with λ‖θ‖²/2 added."""

    dL_dyhat: Array
    """The derivative of the mean loss by each element of ŷ."""

    dyhat_dtheta: Array
    """x."""

    dyhat_db: Array
    """1 for every element of ŷ."""

    dl2_dtheta: Array
    """λθ."""

    dL_dtheta: Array
    """The gradient of θ: the chain's product summed over the samples, plus λθ."""

    dL_db: Array
    """The gradient of b."""


def linear(
    x: ArrayLike,
    y: ArrayLike,
    theta: ArrayLike,
    b: ArrayLike,
    *,
    loss: Loss = "mse",
    l2: float = 0.0,
    delta: float = 1.0,
) -> LinearBackprop:
    """Differentiate a linear model's loss by θ and b.

    With n samples the shapes are one of

    * x (n), θ a number, b a number, y (n);
    * x (n, d), θ (d), b a number, y (n);
    * x (n, d), θ (d, k), b (k), y (n, k).

    Args:
        x: the features.
        y: the targets; between 0 and 1 for ``bce``.
        theta: the weights θ.
        b: the bias.
        loss: ``mse``, ``mae``, ``huber``, or ``bce``, where ŷ is the
            logit and the sigmoid belongs to the loss, as in torch.
        l2: λ, the weight of the L2 penalty on θ, at least 0.
        delta: where ``huber`` turns from a parabola to a line, above 0.

    Returns:
        The pass, factor by factor, in float64.

    Raises:
        BackpropError: an argument has a wrong shape or value, or the result is
            too large for a float64.
    """
    arrays = {"x": x, "y": y, "theta": theta, "b": b}
    x_, y_, theta_, b_ = (_finite(name, value) for name, value in arrays.items())
    _check_shapes(x_, y_, theta_, b_)
    _check_numbers(y_, loss, l2, delta)
    # What overflows is found in the result, whichever operation it came from.
    with np.errstate(all="ignore"):
        result = _differentiate(x_, y_, theta_, b_, _LOSSES[loss], l2, delta)
    if not all(np.isfinite(value).all() for value in vars(result).values()):
        raise BackpropError("", "The result is too large for a float64; scale the numbers down.")
    return result


def _differentiate(
    x: Array, y: Array, theta: Array, b: Array, loss: _Loss, l2: float, delta: float
) -> LinearBackprop:
    y_hat = x * theta + b if theta.ndim == 0 else x @ theta + b
    losses, slopes = loss(y_hat, y, delta)
    dL_dyhat = slopes / y.size
    dl2_dtheta = l2 * theta
    return LinearBackprop(
        y_hat=y_hat,
        loss=float(losses.mean() + l2 * np.square(theta).sum() / 2),
        dL_dyhat=dL_dyhat,
        dyhat_dtheta=x,
        dyhat_db=np.ones_like(y_hat),
        dl2_dtheta=dl2_dtheta,
        dL_dtheta=x.T @ dL_dyhat + dl2_dtheta,
        dL_db=dL_dyhat.sum(axis=0),
    )


def _mse(y_hat: Array, y: Array, _: float) -> tuple[Array, Array]:
    error = y_hat - y
    return np.square(error), 2 * error


def _mae(y_hat: Array, y: Array, _: float) -> tuple[Array, Array]:
    error = y_hat - y
    return np.abs(error), np.sign(error)


def _huber(y_hat: Array, y: Array, delta: float) -> tuple[Array, Array]:
    error = y_hat - y
    size = np.abs(error)
    parabola, line = np.square(error) / 2, delta * (size - delta / 2)
    return np.where(size <= delta, parabola, line), np.clip(error, -delta, delta)


def _bce_with_logits(y_hat: Array, y: Array, _: float) -> tuple[Array, Array]:
    # In this form neither overflows, and a loss near 0 keeps its digits.
    losses = np.maximum(y_hat, 0) - y_hat * y + np.log1p(np.exp(-np.abs(y_hat)))
    sigmoid = np.exp(-np.logaddexp(0, -y_hat))
    return losses, sigmoid - y


_Loss = Callable[[Array, Array, float], tuple[Array, Array]]
"""From ŷ, y and δ to the loss of each element and its derivative by ŷ."""

_LOSSES: dict[Loss, _Loss] = {
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "bce": _bce_with_logits,
}


def _finite(name: str, value: ArrayLike) -> Array:
    detail = "Expected a number or nested lists of numbers, all rows of one length."
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise BackpropError(f"/{name}", detail) from error
    if given.dtype.kind not in "iuf":
        raise BackpropError(f"/{name}", detail)
    array = given.astype(np.float64)
    if not np.isfinite(array).all():
        raise BackpropError(f"/{name}", "Every number must be finite.")
    return array


def _check_shapes(x: Array, y: Array, theta: Array, b: Array) -> None:
    if x.ndim not in (1, 2) or x.size == 0:
        raise BackpropError("/x", f"Expected shape (n) or (n, d), not empty; got {x.shape}.")
    if x.ndim == 1 and theta.ndim != 0:
        raise BackpropError("/theta", f"Expected a number, for x is one list; got {theta.shape}.")
    if x.ndim > 1 and (theta.ndim not in (1, 2) or theta.shape[0] != x.shape[1]):
        d = x.shape[1]
        raise BackpropError("/theta", f"Expected shape ({d}) or ({d}, k); got {theta.shape}.")
    if theta.size == 0:
        raise BackpropError("/theta", f"Expected at least one output; got {theta.shape}.")
    outputs = theta.shape[1:]
    if b.shape != outputs:
        raise BackpropError("/b", f"Expected shape {outputs}; got {b.shape}.")
    if y.shape != (len(x), *outputs):
        raise BackpropError("/y", f"Expected shape {(len(x), *outputs)}; got {y.shape}.")


def _check_numbers(y: Array, loss: str, l2: float, delta: float) -> None:
    if loss not in _LOSSES:
        raise BackpropError("/loss", f"Expected one of {', '.join(_LOSSES)}.")
    if loss == "bce" and (y.min() < 0 or y.max() > 1):
        raise BackpropError("/y", "Every target must be between 0 and 1 for bce.")
    if not (np.isfinite(l2) and l2 >= 0):
        raise BackpropError("/l2", "Expected a finite number that is at least 0.")
    if not (np.isfinite(delta) and delta > 0):
        raise BackpropError("/delta", "Expected a finite number above 0.")
