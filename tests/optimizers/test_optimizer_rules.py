"""What sets an optimizer apart from the others, one test for each such thing.

Expected values were computed by hand, or by torch 2.13 where it is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from session_states import config, packed, started, take, values
from torch_optimizers import build

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions.config import ConfigPatch, patched, resolve
from gradstep_server.sessions.errors import InvalidConfig, NonFiniteGradient
from gradstep_server.sessions.state import State
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType


def session(optimizer: dict[str, Any], start: float = 0.0, dtype: DType = DType.F64) -> State:
    return started(config(optimizer, dtype), {"p": packed(start, dtype)})


def moved(state: State, *gradients: float, lr: float | None = None) -> float:
    """Return the parameter after steps with these gradients."""
    for gradient in gradients:
        take(state, {"p": packed(gradient, state.config.dtype)}, Asked(lr=lr))
    return float(values(state, "p"))


def kept(state: State, slot: str) -> float:
    return float(state.tensors["p"].slots[slot].item())


def change(state: State, **optimizer: Any) -> None:
    """Change hyperparameters as PATCH does."""
    patch = ConfigPatch(optimizer=optimizer)
    state.config = patched(state.config, patch, stepped=state.stepped)
    state.groups = resolve(state.config)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("RMSprop", {"centered": True}),
        ("Adagrad", {"initial_accumulator_value": 0.5}),
    ],
)
def test_what_decided_how_slots_begin_cannot_change_any_more(
    kind: str, changes: dict[str, Any]
) -> None:
    state = session({"type": kind})
    change(state, **changes)
    change(state, **{name: getattr(OPTIMIZERS[kind](), name) for name in changes})
    moved(state, 1.0)
    with pytest.raises(InvalidConfig) as refusal:
        change(state, **changes)
    assert [fault.pointer for fault in refusal.value.faults] == [
        f"/optimizer/{name}" for name in changes
    ]


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "Adadelta", "RAdam"])
def test_a_gradient_whose_square_overflows_is_refused_where_it_is_squared(kind: str) -> None:
    state = session({"type": kind})
    with pytest.raises(NonFiniteGradient, match="overflows when squared"):
        moved(state, 1e200)
    assert state.tensors["p"].slots == {}


@pytest.mark.parametrize("kind", ["Adamax", "Rprop", "Lion", "SignSGD"])
def test_a_gradient_that_is_not_squared_may_be_almost_as_large_as_the_dtype_allows(
    kind: str,
) -> None:
    state = session({"type": kind, "lr": 0.1})
    assert moved(state, 1e307) == pytest.approx(-0.1)
    assert np.isfinite(moved(state, -1e307, 1e307))
    assert all(np.isfinite(slot).all() for slot in state.tensors["p"].slots.values())


def test_a_centred_variance_that_rounding_leads_below_zero_is_zero_where_torch_has_nan() -> None:
    rmsprop = {"type": "RMSprop", "lr": 1e-3, "alpha": 0.9, "centered": True, "eps": 1.0}
    gradients = np.linspace(0.1, 3, 100, dtype=np.float32)
    weight = torch.zeros(100)
    reference = build(rmsprop, [weight])
    state = started(config(rmsprop), {"p": packed(np.zeros(100), DType.F32)})
    for _ in range(200):
        before = values(state, "p")
        weight.grad = torch.tensor(gradients)
        reference.step()
        take(state, {"p": packed(gradients, DType.F32)})
    assert weight.isnan().any()
    assert before - values(state, "p") == pytest.approx(1e-3 * gradients, rel=0.01)


@pytest.mark.parametrize(("kind", "second"), [("RMSprop", 2.0), ("SignSGD", 0.5)])
def test_momentum_switched_on_late_begins_with_an_empty_buffer(kind: str, second: float) -> None:
    state = session({"type": kind, "lr": 0.1} | ({"alpha": 1, "eps": 1} if second > 1 else {}))
    moved(state, 1.0)
    assert "momentum_buffer" not in state.tensors["p"].slots
    change(state, momentum=0.5)
    moved(state, second)
    assert kept(state, "momentum_buffer") == second * (1 if second > 1 else 0.5)
    change(state, momentum=0)
    moved(state, 9.0)
    change(state, momentum=0.5)
    before = kept(state, "momentum_buffer")
    moved(state, 0.0)
    assert kept(state, "momentum_buffer") == before / 2


def test_adamax_adds_eps_to_the_gradient_before_it_takes_the_maximum() -> None:
    state = session({"type": "Adamax", "lr": 1.0, "betas": [0, 0.5], "eps": 1.0})
    assert moved(state, 3.0) == pytest.approx(-3 / 4, abs=1e-15)
    assert moved(state, 0.5) == pytest.approx(-3 / 4 - 0.5 / 2, abs=1e-15)
    assert kept(state, "exp_inf") == 2.0


def test_adagrad_begins_with_its_initial_value_once() -> None:
    adagrad = {"type": "Adagrad", "lr": 1.0, "initial_accumulator_value": 3.0, "lr_decay": 0.5}
    state = session(adagrad)
    assert moved(state, 1.0) == pytest.approx(-1 / 2, abs=1e-9)
    assert moved(state, np.sqrt(5.0)) == pytest.approx(-1 / 2 - np.sqrt(5) / 3 / 1.5, abs=1e-9)
    assert kept(state, "sum") == pytest.approx(9.0, abs=1e-14)


def test_adadelta_takes_its_first_step_from_eps_alone() -> None:
    adadelta = {"type": "Adadelta", "lr": 1.0, "rho": 0.5, "eps": 1.0}
    state = session(adadelta)
    assert moved(state, 4.0) == pytest.approx(-4 / 3, abs=1e-15)
    assert kept(state, "square_avg") == 8.0
    assert kept(state, "acc_delta") == pytest.approx(8 / 9, abs=1e-15)


def test_rprop_reads_the_rate_at_the_first_step_of_a_tensor_only() -> None:
    state = session({"type": "Rprop", "lr": 0.1})
    assert moved(state, 1.0, lr=0.5) == -0.5
    assert moved(state, 1.0, lr=9.0) == pytest.approx(-0.5 - 0.6, abs=1e-15)
    change(state, lr=7.0)
    assert moved(state, 1.0) == pytest.approx(-0.5 - 0.6 - 0.72, abs=1e-15)


def test_rprop_stays_where_the_sign_changes_and_goes_on_with_a_smaller_step() -> None:
    state = session({"type": "Rprop", "lr": 0.5, "step_sizes": [0.1, 0.55]})
    assert moved(state, 1.0, 3.0) == pytest.approx(-0.5 - 0.55, abs=1e-15)
    assert moved(state, -2.0) == pytest.approx(-1.05, abs=1e-15)
    assert (kept(state, "prev"), kept(state, "step_size")) == (0.0, 0.275)
    assert moved(state, -2.0) == pytest.approx(-1.05 + 0.275, abs=1e-15)


@pytest.mark.parametrize(("beta2", "plain"), [(0.999, 5), (0.9, 5), (0.99, 5), (0.5, 40)])
def test_radam_steps_without_a_denominator_until_the_second_moment_is_trusted(
    beta2: float, plain: int
) -> None:
    radam = {"type": "RAdam", "lr": 1.0, "betas": [0, beta2]}
    state = session(radam)
    length = 2 / (1 - beta2) - 1
    for t in range(1, 41):
        before = moved(state)
        step = before - moved(state, 3.0)
        rho = length - 2 * t * beta2**t / (1 - beta2**t)
        assert (rho <= 5) == (t <= plain)
        if t <= plain:
            assert step == pytest.approx(3.0, abs=1e-12)
        else:
            variance = (rho - 4) * (rho - 2) * length / ((length - 4) * (length - 2) * rho)
            assert step == pytest.approx(variance**0.5, rel=1e-7)


def test_lion_steps_by_the_rate_along_an_interpolation_and_keeps_another() -> None:
    lion = {"type": "Lion", "lr": 0.1, "betas": [0.5, 0.75], "weight_decay": 0.5}
    state = session(lion, start=1.0)
    assert moved(state, 8.0) == pytest.approx(0.95 - 0.1, abs=1e-15)
    assert kept(state, "exp_avg") == 2.0
    assert moved(state, -1.0) == pytest.approx(0.85 * 0.95 - 0.1, abs=1e-15)
    assert kept(state, "exp_avg") == 1.25
    assert moved(state, -1.25) == pytest.approx((0.85 * 0.95 - 0.1) * 0.95, abs=1e-15)


@pytest.mark.parametrize("kind", ["Lion", "SignSGD"])
def test_a_direction_of_zero_moves_nothing(kind: str) -> None:
    assert moved(session({"type": kind, "lr": 0.1}, start=2.0), 0.0, 0.0) == 2.0


def test_signum_takes_the_sign_of_a_running_mean() -> None:
    signum = {"type": "SignSGD", "lr": 0.1, "momentum": 0.75}
    state = session(signum)
    assert moved(state, 4.0) == -0.1
    assert moved(state, -2.0) == pytest.approx(-0.2, abs=1e-15)
    assert kept(state, "momentum_buffer") == 0.25
    assert moved(session({"type": "SignSGD", "lr": 0.1}), 4.0, -2.0, -2.0) == pytest.approx(0.1)


def test_signsgd_decays_through_the_sign_or_beside_it() -> None:
    signsgd = {"type": "SignSGD", "lr": 0.1, "weight_decay": 0.5}
    assert moved(session(signsgd, start=4.0), -1.0) == pytest.approx(3.9, abs=1e-15)
    decoupled = {**signsgd, "decoupled_weight_decay": True}
    assert moved(session(decoupled, start=4.0), -1.0) == pytest.approx(4 * 0.95 + 0.1, abs=1e-15)
