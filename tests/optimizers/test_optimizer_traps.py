"""What re-implementations of torch's optimizers get wrong, one test for each trap.

The numbers (O1, O2, …) are the rows of the list of torch's semantics that the
project follows; the expected values were taken from torch 2.13.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from session_states import config, packed, packed_all, started, take, values

from gradstep_server.sessions.config import ConfigPatch, patched, resolve
from gradstep_server.sessions.errors import InvalidConfig, NonFiniteGradient
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType

PRESENT = packed(0.0)
"""The gradient of a second tensor, for steps in which the first has none."""


def path(
    optimizer: dict[str, Any],
    gradients: list[float | None],
    rates: list[float] | None = None,
    *,
    start: float = 0.0,
    state: State | None = None,
) -> list[float]:
    """Return a scalar parameter after each step; a rate of its own may come with each."""
    state = state or scalar(optimizer, start)
    seen = []
    for n, gradient in enumerate(gradients):
        sent = {"other": PRESENT} if gradient is None else {"p": packed(gradient)}
        take(state, sent, Asked(lr=rates[n] if rates else None))
        seen.append(float(values(state, "p")))
    return seen


def scalar(optimizer: dict[str, Any], start: float) -> State:
    return started(config(optimizer), packed_all({"p": start, "other": 0.0}))


def change(state: State, **optimizer: Any) -> None:
    """Change hyperparameters as PATCH does."""
    patch = ConfigPatch(optimizer=optimizer)
    state.config = patched(state.config, patch, stepped=state.step > 0)
    state.groups = resolve(state.config)


def test_o1_the_first_momentum_buffer_takes_the_gradient_undamped() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    state = scalar(sgd, 1.0)
    buffers = []
    for expected in (0.9, 0.76, 0.584):
        (moved,) = path(sgd, [1.0], state=state)
        assert moved == pytest.approx(expected, abs=1e-15)
        buffers.append(state.tensors["p"].slots["momentum_buffer"].item())
    assert buffers == pytest.approx([1, 1.4, 1.76], abs=1e-15)


def test_o2_nesterov_looks_ahead_along_the_updated_buffer() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True}
    assert path(sgd, [1.0, 1.0], start=1.0) == pytest.approx([0.81, 0.539], abs=1e-15)


def test_o3_maximize_negates_the_gradient_before_decay_is_added() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "weight_decay": 0.1, "maximize": True}
    assert path(sgd, [0.0, 0.0], start=1.0) == pytest.approx([0.99, 0.9801], abs=1e-15)
    adamw = {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5, "maximize": True}
    assert path(adamw, [1.0], start=1.0) == pytest.approx([1.049999999], abs=1e-12)


def test_o4_plain_sgd_keeps_no_state_and_momentum_may_be_switched_on() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "dampening": 0.0}
    state = scalar(sgd, 1.0)
    path(sgd, [1.0], state=state)
    assert state.tensors["p"].slots == {}
    change(state, momentum=0.9)
    path(sgd, [1.0, 1.0], state=state)
    assert state.tensors["p"].slots["momentum_buffer"].item() == pytest.approx(1.9, abs=1e-15)


def test_o4_a_buffer_that_momentum_makes_late_is_not_damped_either() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "dampening": 0.5}
    state = scalar(sgd, 0.0)
    path(sgd, [1.0], state=state)
    change(state, momentum=0.9)
    path(sgd, [1.0], state=state)
    assert state.tensors["p"].slots["momentum_buffer"].item() == 1.0


def test_o4_switching_momentum_off_and_on_keeps_the_buffer_as_torch_does() -> None:
    sgd = {"type": "SGD", "lr": 0.1, "momentum": 0.5}
    state = scalar(sgd, 0.0)
    path(sgd, [1.0], state=state)
    change(state, momentum=0.0)
    path(sgd, [8.0], state=state)
    change(state, momentum=0.5)
    path(sgd, [1.0], state=state)
    assert state.tensors["p"].slots["momentum_buffer"].item() == 1.5


def test_o5_eps_stands_outside_of_the_root_and_after_bias_correction() -> None:
    assert path({"type": "Adam", "lr": 1.0}, [1e-8]) == pytest.approx([-0.5], abs=1e-12)


def test_o6_amsgrad_takes_the_maximum_of_the_uncorrected_moment() -> None:
    adam = {"type": "Adam", "lr": 0.1, "amsgrad": True}
    expected = [-0.1, -0.17408, -0.23740]
    assert path(adam, [1.0, 0.1, 0.1]) == pytest.approx(expected, abs=5e-6)


def test_o7_adamw_decays_before_the_step_with_the_rate_of_this_step() -> None:
    adamw = {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5}
    decayed = path(adamw, [0.0, 0.0], [0.1, 0.01], start=1.0)
    assert decayed == pytest.approx([0.95, 0.94525], abs=1e-15)
    assert path(adamw, [1.0], start=1.0) == pytest.approx([0.850000001], abs=1e-12)


def test_o8_the_decay_of_adam_goes_through_the_gradient_into_the_moments() -> None:
    adam = {"type": "Adam", "lr": 0.1, "weight_decay": 0.5}
    state = scalar(adam, 1.0)
    assert path(adam, [0.0], state=state) == pytest.approx([0.9], abs=1e-8)
    slots = state.tensors["p"].slots
    assert slots["exp_avg"].item() == pytest.approx(0.05, abs=1e-15)
    assert slots["exp_avg_sq"].item() == pytest.approx(0.00025, abs=1e-15)


def test_o8_adam_with_decoupled_decay_is_adamw() -> None:
    shared = {"lr": 0.1, "weight_decay": 0.3}
    adam = {"type": "Adam", "decoupled_weight_decay": True, **shared}
    gradients: list[float | None] = [1.0, -0.5, 0.25]
    assert path(adam, gradients) == path({"type": "AdamW", **shared}, gradients)


def test_o9_an_absent_gradient_is_not_a_gradient_of_zero() -> None:
    adam = {"type": "Adam", "lr": 0.1}
    state = scalar(adam, 1.0)
    absent = path(adam, [1.0, None, 1.0], state=state)
    assert absent == pytest.approx([0.9, 0.9, 0.8], abs=1e-8)
    assert (state.tensors["p"].steps, state.tensors["other"].steps) == (2, 1)
    zero = path(adam, [1.0, 0.0, 1.0], start=1.0)
    assert zero == pytest.approx([0.9, 0.83299, 0.75119], abs=5e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"type": "AdamW", "lr": 0.1, "weight_decay": 0.5},
        {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5},
    ],
    ids=lambda optimizer: str(optimizer["type"]),
)
def test_o9_an_absent_tensor_neither_decays_nor_gets_state(optimizer: dict[str, Any]) -> None:
    state = scalar(optimizer, 1.0)
    assert path(optimizer, [None, None], state=state) == [1.0, 1.0]
    assert state.tensors["p"].slots == {}
    assert (state.step, state.tensors["p"].steps) == (2, 0)


@pytest.mark.parametrize(("beta", "past", "bits"), [(0.9, 1.0, 1e-9), (0.0, 1e9, 1e-9)])
def test_o10_the_first_moment_interpolates_from_its_nearer_end(
    beta: float, past: float, bits: float
) -> None:
    adam = {"type": "Adam", "lr": 0.0, "betas": [beta, 0.5]}
    state = started(config(adam, DType.F32), {"p": packed(0.0, DType.F32)})
    for gradient in (past, bits):
        take(state, {"p": packed(gradient, DType.F32)})
    expected = beta * (1 - beta) * past + (1 - beta) * bits
    assert state.tensors["p"].slots["exp_avg"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "large", "usable"), [(DType.F64, 1e200, 1e150), (DType.F32, 1e20, 1e18)]
)
def test_o11_a_gradient_whose_square_overflows_counts_as_not_finite(
    dtype: DType, large: float, usable: float
) -> None:
    state = started(config({"type": "Adam"}, dtype), {"p": packed([0.0, 0.0], dtype)})
    with pytest.raises(NonFiniteGradient, match="overflows when squared") as refusal:
        take(state, {"p": packed([1.0, large], dtype)})
    assert [fault.pointer for fault in refusal.value.faults] == ["/grads/p/1"]
    assert state.tensors["p"].slots == {}
    take(state, {"p": packed([1.0, usable], dtype)})
    assert np.isfinite(state.tensors["p"].slots["exp_avg_sq"]).all()


def test_o11_sgd_squares_nothing_and_takes_the_same_gradient() -> None:
    assert path({"type": "SGD", "lr": 1e-200}, [1e200]) == pytest.approx([-1.0])


@pytest.mark.parametrize(
    "clip",
    [
        {"type": "norm", "max_norm": 1},
        {"type": "value", "value": 1},
        {"type": "block_rms"},
        {"type": "adaptive", "eps": 100},
    ],
)
def test_o11_what_clipping_makes_small_enough_is_usable(clip: dict[str, Any]) -> None:
    state = started(config({"type": "Adam", "lr": 0.1}, clip=clip), {"p": packed(0.0)})
    take(state, {"p": packed(1e200)})
    assert values(state, "p") == pytest.approx(-0.1, rel=1e-6)


def test_o12_a_rate_of_zero_holds_the_parameters_while_the_moments_go_on() -> None:
    adamw = {"type": "AdamW", "lr": 0.0, "weight_decay": 0.5}
    state = scalar(adamw, 1.0)
    assert path(adamw, [1.0, 1.0], state=state) == [1.0, 1.0]
    tensor = state.tensors["p"]
    assert tensor.steps == 2
    assert tensor.slots["exp_avg"].item() == pytest.approx(0.19, abs=1e-15)


def test_o13_betas_may_be_integers() -> None:
    adam = {"type": "Adam", "lr": 0.1, "betas": [0, 0]}
    assert path(adam, [5.0, -5.0]) == pytest.approx([-0.1, 0.0], abs=1e-8)


def test_o15_eps_of_zero_and_a_gradient_of_zero_divide_zero_by_zero_as_in_torch() -> None:
    assert np.isnan(path({"type": "Adam", "eps": 0}, [0.0])).all()


def test_o16_the_counter_is_an_integer_that_does_not_saturate() -> None:
    state = scalar({"type": "Adam"}, 0.0)
    state.tensors["p"].steps = 2**24
    path({}, [1.0, 1.0], state=state)
    assert state.tensors["p"].steps == 2**24 + 2


def test_o22_amsgrad_cannot_be_switched_on_once_there_are_moments() -> None:
    state = scalar({"type": "Adam"}, 0.0)
    change(state, amsgrad=True)
    change(state, amsgrad=False)
    path({}, [1.0], state=state)
    with pytest.raises(InvalidConfig) as refusal:
        change(state, amsgrad=True)
    assert [fault.pointer for fault in refusal.value.faults] == ["/optimizer/amsgrad"]


def test_o24_the_clipping_norm_has_1e_6_added() -> None:
    sgd = {"type": "SGD", "lr": 1.0}
    clip = {"type": "norm", "max_norm": 1.0}
    state = started(config(sgd, clip=clip), {"p": packed([0.0, 0.0])})
    record = take(state, {"p": packed([3.0, 4.0])})
    assert (record.grad_norm, record.clipped) == (5.0, True)
    expected = [-0.59999988, -0.79999984]
    np.testing.assert_allclose(values(state, "p"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("clip", [None, {"type": "norm", "max_norm": 1.0}])
def test_o26_scalars_and_empty_tensors_are_stepped(kind: str, clip: Any) -> None:
    params = packed_all({"scalar": 1.0, "empty": np.zeros((2, 0, 3))})
    state = started(config({"type": kind, "lr": 0.1}, clip=clip), params)
    for _ in range(2):
        take(state, packed_all({"scalar": 1.0, "empty": np.zeros((2, 0, 3))}))
    assert values(state, "scalar").shape == ()
    assert values(state, "scalar") < 1
    assert values(state, "empty").shape == (2, 0, 3)
    assert {tensor.steps for tensor in state.tensors.values()} == {2}


def test_o26_a_step_of_nothing_but_empty_tensors_counts() -> None:
    state = started(config({"type": "Adam"}), {"empty": packed([])})
    record = take(state, {"empty": packed([])})
    assert (record.applied, record.grad_norm) == (True, 0.0)
    assert state.tensors["empty"].steps == 1


def classical(
    gradients: list[float], rates: list[float], *, mu: float, tau: float, nesterov: bool
) -> list[float]:
    """Return θ by v ← μv + η(1 − τ)g, θ ← θ − v; the first v is undamped."""
    theta, velocity, seen = 1.0, 0.0, []
    for n, (gradient, rate) in enumerate(zip(gradients, rates, strict=True)):
        damped = gradient if n == 0 else (1 - tau) * gradient
        velocity = mu * velocity + rate * damped
        theta -= mu * velocity + rate * gradient if nesterov else velocity
        seen.append(theta)
    return seen


@pytest.mark.parametrize(
    ("tau", "nesterov", "maximize"),
    [(0.0, False, False), (0.5, False, False), (0.0, True, False), (0.0, True, True)],
)
def test_o27_classical_momentum_keeps_the_rate_inside_the_velocity(
    tau: float, nesterov: bool, maximize: bool
) -> None:
    rng = np.random.default_rng(27)
    gradients = rng.standard_normal(50).tolist()
    rates = (0.1 * 0.9 ** np.arange(50)).tolist()
    sgd = {"type": "SGD", "momentum": 0.9, "dampening": tau, "nesterov": nesterov}
    sgd |= {"momentum_style": "classical", "maximize": maximize}
    signed = [-g for g in gradients] if maximize else gradients
    expected = classical(signed, rates, mu=0.9, tau=tau, nesterov=nesterov)
    assert path(sgd, gradients, rates, start=1.0) == pytest.approx(expected, rel=0, abs=1e-13)


def test_o27_the_styles_of_momentum_differ_once_the_rate_moves() -> None:
    sgd = {"type": "SGD", "momentum": 0.9}
    classic = sgd | {"momentum_style": "classical"}
    moving, constant = [0.1, 0.01], [0.1, 0.1]
    assert path(sgd, [1.0, 1.0], moving, start=1.0)[-1] == pytest.approx(0.881)
    assert path(classic, [1.0, 1.0], moving, start=1.0)[-1] == pytest.approx(0.800)
    same = path(sgd, [1.0, 1.0], constant, start=1.0)
    assert path(classic, [1.0, 1.0], constant, start=1.0) == pytest.approx(same, abs=1e-15)
