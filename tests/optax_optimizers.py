"""Optimizers as optax steps them, for kinds that torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from session_states import Array
from torch_optimizers import Gradients

from gradstep_server.optimizers import OPTIMIZERS

jax.config.update("jax_enable_x64", True)


def _lion(numbers: Mapping[str, Any], lr: Any) -> Any:
    return optax.lion(lr, *numbers["betas"], weight_decay=numbers["weight_decay"])


def _signum(numbers: Mapping[str, Any], lr: Any) -> Any:
    """Return Signum behind L2 decay, and before decoupled decay; optax has it without."""
    behind = optax.add_decayed_weights(numbers["weight_decay"])
    before = optax.add_decayed_weights(-lr * numbers["decoupled"])
    return optax.chain(behind, optax.signum(lr, numbers["momentum"]), before)


_RULES: Mapping[str, tuple[Callable[[Mapping[str, Any], Any], Any], str, str]] = {
    "Lion": (_lion, "mu", "exp_avg"),
    "SignSGD": (_signum, "ema", "momentum_buffer"),
}
"""The optimizer of each kind, what optax calls its slot, and what it is called here."""


@partial(jax.jit, static_argnames="kind")
def _stepped(
    numbers: Mapping[str, Any], lr: float, p: Any, gradient: Any, state: Any, *, kind: str
) -> tuple[Any, Any]:
    updates, state = _RULES[kind][0](numbers, lr).update(gradient, state, p)
    return optax.apply_updates(p, updates), state


class OptaxRun:
    """One parameter that optax steps, at a rate that is set for every step."""

    def __init__(self, params: Mapping[str, Any], initial: Array) -> None:
        optimizer = OPTIMIZERS[params["type"]].model_validate(params)
        self.kind, self.maximize = optimizer.kind_name(), optimizer.maximize
        given = optimizer.model_dump()
        self.numbers: dict[str, Any] = {
            name: given[name] for name in ("betas", "momentum") if name in given
        }
        decoupled = given.get("decoupled_weight_decay", False)
        self.numbers["weight_decay"] = 0.0 if decoupled else given["weight_decay"]
        self.numbers["decoupled"] = given["weight_decay"] if decoupled else 0.0
        self._kept = optimizer.slots()
        self._p = jnp.asarray(initial)
        self._state = _RULES[self.kind][0](self.numbers, 1.0).init(self._p)
        self._lr = optimizer.lr

    def at(self, lr: float) -> None:
        """Set the rate of the next step."""
        self._lr = lr

    def step(self, gradients: Gradients) -> None:
        (gradient,) = gradients.values()
        assert gradient is not None
        signed = jnp.asarray(-gradient if self.maximize else gradient)
        self._p, self._state = _stepped(
            self.numbers, self._lr, self._p, signed, self._state, kind=self.kind
        )

    def values(self, _: str) -> Array:
        return np.asarray(self._p)

    def slots(self, _: str) -> dict[str, Array]:
        """Return the slot that the kind has here, if it has one."""
        theirs, ours = _RULES[self.kind][1:]
        found = np.asarray(optax.tree.get(self._state, theirs))
        return {ours: found} if ours in self._kept else {}
