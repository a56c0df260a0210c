"""Muon: how far from torch it is, what it refuses, and the groups that it needs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from session_states import config, frozen, packed, packed_all, started, take, values
from torch_optimizers import TorchRun, build

from gradstep_server.optimizers import Shape
from gradstep_server.optimizers.muon import product, to_bfloat16
from gradstep_server.sessions.errors import InvalidTensors
from gradstep_server.sessions.tensors import DType

MUON = {"type": "Muon", "lr": 0.02}
GROUP: dict[str, Any] = {"match": ["*.bias", "scale"], "optimizer": {"type": "AdamW", "lr": 0.1}}
SHARE = 0.05
"""What docs/torch.md says of larger matrices: the most by which an update differs from
torch's, as a share of its largest element."""


@pytest.mark.parametrize(
    "shape", [(4, 5), (16, 8), (1, 9), (9, 1), (32, 32), (64, 64), (96, 200), (300, 64)]
)
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
def test_an_update_is_that_of_torch_up_to_the_roundings_of_bfloat16(
    shape: Shape, dtype: DType
) -> None:
    rng = np.random.default_rng(0)
    state = started(config(MUON, dtype), {"w": packed(rng.standard_normal(shape) / 2, dtype)})
    weight = torch.tensor(values(state, "w"))
    reference = build(MUON, [weight])
    worst = 0.0
    for _ in range(10):
        gradient = packed(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 1, shape), dtype)
        weight.grad = torch.tensor(gradient.widened(dtype).reshape(shape))
        before = weight.numpy().copy()
        take(state, {"w": gradient})
        reference.step()
        expected = weight.numpy()
        update = expected - (1 - 0.02 * 0.1) * before
        worst = max(worst, abs(values(state, "w") - expected).max() / abs(update).max())
        np.copyto(state.tensors["w"].values, expected.ravel())
        kept = reference.state[weight]["momentum_buffer"].numpy()
        np.copyto(state.tensors["w"].slots["momentum_buffer"], kept.ravel())
    print(f"\nMuon {dtype} {shape}: worst |Δ| of one update {worst:.1e} × max|update|")
    assert worst <= SHARE


@pytest.mark.parametrize("shape", [(32, 32), (96, 200), (300, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DType.F32, 1e-6), (DType.F64, 1e-12)])
def test_a_step_is_that_of_torch_with_its_roundings_fixed(
    shape: Shape, dtype: DType, tolerance: float
) -> None:
    rng = np.random.default_rng(6)
    state = started(config(MUON, dtype), {"w": packed(rng.standard_normal(shape), dtype)})
    run = TorchRun(MUON, {"w": values(state, "w")})
    for _ in range(3):
        gradient = packed(rng.standard_normal(shape) * 10 ** rng.uniform(-3, 1, shape), dtype)
        run.at(0.02)
        run.step({"w": gradient.widened(dtype).reshape(shape)})
        take(state, {"w": gradient})
        expected = run.values("w")
        assert abs(values(state, "w") - expected).max() <= tolerance * abs(expected).max()
        np.copyto(state.tensors["w"].values, expected.ravel())
        kept = run.slots("w")["momentum_buffer"]
        np.copyto(state.tensors["w"].slots["momentum_buffer"], kept.ravel())


def test_rounding_to_bfloat16_is_to_the_nearest_and_even() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(10_000) * 10 ** rng.uniform(-40, 38, 10_000)).astype(np.float32)
    x = np.concatenate([x, np.array([0.0, -0.0, 1.00390625, 1.01171875], np.float32)]).reshape(
        2, -1
    )
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    to_bfloat16(x)
    assert x.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 4, 3), (7, 9, 2), (3, 8, 17)])
def test_a_product_sums_in_order(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    rng = np.random.default_rng(2)
    a = rng.standard_normal((rows, inner)).astype(np.float32)
    b = rng.standard_normal((inner, columns)).astype(np.float32)
    expected = np.zeros((rows, columns), np.float32)
    for k in range(inner):
        expected += a[:, k : k + 1] * b[k]
    assert product(a, b).tobytes() == expected.tobytes()


def test_the_update_is_about_orthogonal() -> None:
    state = started(
        config(MUON | {"weight_decay": 0.0, "lr": 1.0}), {"w": packed(np.zeros((6, 9)))}
    )
    take(state, {"w": packed(np.random.default_rng(3).standard_normal((6, 9)))})
    singular = np.linalg.svd(values(state, "w"), compute_uv=False)
    assert ((singular > 0.5) & (singular < 1.5)).all()


@pytest.mark.parametrize(
    ("adjust", "shape", "expected"),
    [
        (None, (8, 2), 2.0),
        ("original", (2, 8), 1.0),
        ("match_rms_adamw", (2, 9), 0.6),
        ("match_rms_adamw", (16, 4), 0.8),
    ],
)
def test_the_rate_follows_the_shape(adjust: str | None, shape: Shape, expected: float) -> None:
    gradient = {"w": packed(np.random.default_rng(4).standard_normal(shape))}
    found = []
    for adjust_lr_fn in (None, adjust):
        muon = MUON | {"weight_decay": 0.0, "adjust_lr_fn": adjust_lr_fn}
        state = started(config(muon), {"w": packed(np.zeros(shape))})
        take(state, gradient)
        found.append(values(state, "w"))
    plain = max(1.0, shape[0] / shape[1]) ** 0.5
    np.testing.assert_allclose(found[1], found[0] / plain * expected, rtol=1e-12)


@pytest.mark.parametrize("value", [1e30, 1e150])
def test_a_gradient_beyond_bfloat16_poisons_nothing(value: float) -> None:
    state = started(config(MUON), {"w": packed(np.ones((2, 2)))})
    take(state, {"w": packed(np.full((2, 2), value))})
    assert np.isfinite(values(state, "w")).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_a_tensor_that_is_no_matrix_is_refused_by_its_name(shape: Shape) -> None:
    params = packed_all({"w": np.ones((2, 2)), "b/1": np.ones(shape)})
    with pytest.raises(InvalidTensors) as refusal:
        started(config(MUON), params)
    (fault,) = refusal.value.faults
    assert fault.pointer == "/params/b~11"
    assert f"the shape is {list(shape)}" in fault.detail


def test_empty_matrices_are_stepped() -> None:
    state = started(config(MUON), packed_all({"a": np.ones((0, 3)), "b": np.ones((3, 0))}))
    take(state, packed_all({"a": np.ones((0, 3)), "b": np.ones((3, 0))}))
    assert [tensor.steps for tensor in state.tensors.values()] == [1, 1]


def test_a_group_with_adamw_takes_the_rest_as_two_optimizers_of_torch_would() -> None:
    shapes: dict[str, Shape] = {"1.weight": (4, 5), "1.bias": (5,), "scale": ()}
    rng = np.random.default_rng(5)
    initial: dict[str, Any] = {name: rng.standard_normal(s) for name, s in shapes.items()}
    schedule = {"type": "ExponentialLR", "gamma": 0.9}
    settings = config(MUON, param_groups=[GROUP], scheduler=schedule)
    state = started(settings, packed_all(initial))
    weights = {name: torch.tensor(array) for name, array in initial.items()}
    adamw = build(GROUP["optimizer"], [weights["1.bias"], weights["scale"]])
    optimizers = [build(MUON, [weights["1.weight"]]), adamw]
    rates = [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in optimizers]
    for _ in range(20):
        gradients = {name: np.asarray(rng.standard_normal(s)) for name, s in shapes.items()}
        record = take(state, packed_all(gradients))
        assert record.lr == pytest.approx([rate.get_last_lr()[0] for rate in rates])
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradients[name])
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.step()
            rate.step()
        for name, weight in weights.items():
            expected = weight.numpy()
            assert abs(values(state, name) - expected).max() <= 1e-12 * abs(expected).max()
    assert set(state.tensors["1.bias"].slots) == {"exp_avg", "exp_avg_sq"}
    (group,) = frozen(state)[0]["config"]["param_groups"]
    assert (group["match"], group["optimizer"]["type"]) == (["*.bias", "scale"], "AdamW")
