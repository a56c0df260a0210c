"""Weight decay: inside the gradient, or of the parameters themselves."""

from __future__ import annotations


def decays(weight_decay: float, lr: float, *, decoupled: bool) -> tuple[float, float]:
    """Return what to add to the gradient per θ, and what to multiply θ by.

    That is λ inside the gradient, or 1 − ηλ on the parameter.
    """
    return (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
