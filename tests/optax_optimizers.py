"""Optimizers as optax steps them, for kinds that torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

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


def _lamb(numbers: Mapping[str, Any], lr: Any) -> Any:
    rest = {name: numbers[name] for name in ("eps", "weight_decay")}
    return optax.lamb(lr, *numbers["betas"], **rest)


def _lars(numbers: Mapping[str, Any], lr: Any, *, nesterov: bool) -> Any:
    names = ("momentum", "trust_coefficient", "eps")
    return optax.lars(lr, nesterov=nesterov, **{name: numbers[name] for name in names})


class _Rule(NamedTuple):
    """The optimizer of a kind, and what optax calls the slots that are named here."""

    build: Callable[[Mapping[str, Any], Any], Any]
    slots: Mapping[str, str]
    sign: float = 1.0
    """What optax's slots are multiplied by: it negates a buffer that the rate is inside of."""


_RULES: Mapping[str, _Rule] = {
    "Lion": _Rule(_lion, {"exp_avg": "mu"}),
    "SignSGD": _Rule(_signum, {"momentum_buffer": "ema"}),
    "LAMB": _Rule(_lamb, {"exp_avg": "mu", "exp_avg_sq": "nu"}),
    "LARS": _Rule(partial(_lars, nesterov=False), {"momentum_buffer": "trace"}, -1.0),
    "LARS, nesterov": _Rule(partial(_lars, nesterov=True), {"momentum_buffer": "trace"}, -1.0),
}


@partial(jax.jit, static_argnames="rule")
def _stepped(
    numbers: Mapping[str, Any], lr: float, p: Any, gradient: Any, state: Any, *, rule: str
) -> tuple[Any, Any]:
    updates, state = _RULES[rule].build(numbers, lr).update(gradient, state, p)
    return optax.apply_updates(p, updates), state


class OptaxRun:
    """One parameter that optax steps, at a rate that is set for every step."""

    def __init__(self, params: Mapping[str, Any], initial: Array) -> None:
        optimizer = OPTIMIZERS[params["type"]].model_validate(params)
        self.maximize = optimizer.maximize
        given = optimizer.model_dump()
        self._rule = optimizer.kind_name() + (", nesterov" if given.get("nesterov") else "")
        names = ("betas", "momentum", "eps", "trust_coefficient")
        self.numbers: dict[str, Any] = {name: given[name] for name in names if name in given}
        decoupled = given.get("decoupled_weight_decay", False)
        self.numbers["weight_decay"] = 0.0 if decoupled else given["weight_decay"]
        self.numbers["decoupled"] = given["weight_decay"] if decoupled else 0.0
        self._kept = optimizer.slots()
        self._p = jnp.asarray(initial)
        self._state = _RULES[self._rule].build(self.numbers, 1.0).init(self._p)
        self._lr = optimizer.lr

    def at(self, lr: float) -> None:
        """Set the rate of the next step."""
        self._lr = lr

    def step(self, gradients: Gradients) -> None:
        """Step the parameter."""
        (gradient,) = gradients.values()
        assert gradient is not None
        signed = jnp.asarray(-gradient if self.maximize else gradient)
        self._p, self._state = _stepped(
            self.numbers, self._lr, self._p, signed, self._state, rule=self._rule
        )

    def values(self, _: str) -> Array:
        """Return the parameter."""
        return np.asarray(self._p)

    def slots(self, _: str) -> dict[str, Array]:
        """Return the slots that the kind has here, if it has some."""
        rule = _RULES[self._rule]
        return {
            slot: rule.sign * np.asarray(optax.tree.get(self._state, rule.slots[slot]))
            for slot in self._kept
        }

    def scalars(self, _: str) -> dict[str, float]:
        """Return the numbers that are kept beside: none."""
        return {}
