"""Every optimizer against torch: against recorded parameters, and stepped live.

From equal state, one step's max|Δ| of a tensor may be `TOLERANCE` times its
max|parameter|, before or after the step (promise D9): a single element that
crosses zero leaves nothing after the step to compare with.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from session_states import COMPUTE, Array, config, packed, packed_all, started, take, values
from torch_optimizers import (
    GAMMA,
    SHAPES,
    Gradients,
    TorchRun,
    cases,
    draw,
    draw_gradients,
    examples,
    fitting,
    grid,
)

from gradstep_server.optimizers import OPTIMIZERS, Scalars, matrices
from gradstep_server.sessions.state import State
from gradstep_server.sessions.tensors import DType, Tensor

FOLDER = Path(__file__).parents[1] / "golden" / "optimizers"
POINTS = 20
STEPS = 100
TOLERANCE = {DType.F64: 1e-12, DType.F32: 1e-6, DType.F16: 1e-6, DType.BF16: 1e-6}

CLIPS: tuple[Any, ...] = (
    None,
    {"type": "norm", "max_norm": 3.0},
    {"type": "value", "value": 0.5},
    {"type": "block_rms", "threshold": 0.3},
    {"type": "adaptive", "clipping": 0.05},
)
SCHEDULER = {"type": "ExponentialLR", "gamma": GAMMA}
KINDS = pytest.mark.parametrize("kind", OPTIMIZERS)


def sampled(kind: str) -> list[dict[str, Any]]:
    """Return some of a kind's grid, no two kinds' the same."""
    points = grid(kind)
    return random.Random(kind).sample(points, min(len(points), POINTS))


def error(got: Array, expected: Array, before: Array) -> float:
    """Return max|Δ| as a share of the largest parameter before or after the step."""
    delta = abs(got.astype(np.float64) - expected).max()
    return float(delta / max(abs(expected).max(), abs(before).max()))


class Run:
    """A session and torch, fed with the same gradients."""

    def __init__(self, params: Mapping[str, Any], dtype: DType, clip: Any, seed: int) -> None:
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.shapes = fitting(params["type"], SHAPES)
        initial = packed_all(draw(self.rng, self.shapes, dtype), dtype)
        self.ours = started(config(params, dtype, clip=clip, scheduler=SCHEDULER), initial)
        widened = {name: values(self.ours, name) for name in self.shapes}
        self.torch = TorchRun(params, widened, clip)

    def step(self) -> float:
        """Take one step in both, and return the worst error of a tensor."""
        drawn = draw_gradients(self.rng, self.shapes, self.dtype)
        sent = {name: packed(g, self.dtype) for name, g in drawn.items() if g is not None}
        take(self.ours, sent)
        before = {name: self.torch.values(name).copy() for name in self.shapes}
        self.torch.step(unpacked(sent, self.ours))
        return max(
            error(values(self.ours, name), self.torch.values(name), before[name])
            for name in self.shapes
        )

    def level(self) -> None:
        """Give the session torch's state."""
        for name, tensor in self.ours.tensors.items():
            np.copyto(tensor.values, self.torch.values(name).ravel())
            tensor.scalars = self.torch.scalars(name)
            for slot, kept in self.torch.slots(name).items():
                np.copyto(tensor.slots[slot], kept.ravel())


def unpacked(sent: Mapping[str, Tensor], state: State) -> Gradients:
    return {name: t.widened(state.master).reshape(t.shape) for name, t in sent.items()}


def golden(kind: str) -> list[dict[str, Any]]:
    document = json.loads((FOLDER / f"{kind}.json").read_text())
    assert (document["kind"], document["path"]) == (kind, "foreach=False, fused=False")
    recorded: list[dict[str, Any]] = document["cases"]
    return recorded


@KINDS
def test_the_parameters_are_the_recorded_ones(kind: str) -> None:
    for case in golden(kind):
        dtype = DType(case["dtype"])
        scheduler = {"type": "ExponentialLR", "gamma": case["gamma"]}
        initial = packed_all(case["initial"], dtype)
        state = started(config(case["params"], dtype, scheduler=scheduler), initial)
        expected_before = {name: np.array(value) for name, value in case["initial"].items()}
        for n, gradients in enumerate(case["grads"], start=1):
            take(state, packed_all(gradients, dtype))
            for name, expected in case["after"].get(str(n), {}).items():
                # Not from equal state: up to 12 steps' errors add up.
                found = error(values(state, name), np.array(expected), expected_before[name])
                assert found <= 4 * TOLERANCE[dtype]


@KINDS
def test_the_records_are_what_their_generator_writes(kind: str) -> None:
    recorded = golden(kind)
    fresh = cases(kind)
    assert [case["params"] for case in recorded] == [case["params"] for case in fresh]
    for old, new in zip(recorded, fresh, strict=True):
        assert (old["grads"], old["initial"]) == (new["grads"], new["initial"])
        for n, params in new["after"].items():
            for name, expected in params.items():
                got, start = np.array(old["after"][n][name]), np.array(old["initial"][name])
                assert error(got, np.array(expected), start) <= TOLERANCE[DType(old["dtype"])]


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@KINDS
def test_a_step_from_equal_state_is_the_step_of_torch(kind: str, dtype: DType) -> None:
    worst = 0.0
    for number, params in enumerate(sampled(kind)):
        run = Run(params, dtype, CLIPS[number % len(CLIPS)], seed=number)
        for n in range(STEPS):
            found = run.step()
            assert found <= TOLERANCE[dtype], (params, n)
            worst = max(worst, found)
            run.level()
    print(f"\n{kind} {dtype}: worst |Δ| of one step {worst:.1e} × max|param|")


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@KINDS
def test_errors_of_a_hundred_steps_stay_small(kind: str, dtype: DType) -> None:
    worst = 0.0
    for number, params in enumerate(examples(kind)):
        run = Run(params, dtype, CLIPS[number % len(CLIPS)], seed=number)
        worst = max(worst, *(run.step() for _ in range(STEPS)))
    print(f"\n{kind} {dtype}: worst |Δ| within {STEPS} steps {worst:.1e} × max|param|")
    # Nothing is promised of sums of errors; a wrong rule would be off by far more.
    assert worst <= 1000 * TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("dtype", "reference"), [(DType.BF16, ml_dtypes.bfloat16), (DType.F16, np.float16)]
)
@KINDS
def test_sixteen_bit_parameters_are_the_masters_of_torch_rounded_to_even(
    kind: str, dtype: DType, reference: type[Any]
) -> None:
    for params in sampled(kind)[::4]:
        run = Run(params, dtype, None, seed=7)
        for _ in range(STEPS):
            assert run.step() <= TOLERANCE[dtype]
            run.level()
            for name, tensor in run.ours.params().items():
                rounded = run.torch.values(name).astype(reference)
                assert (tensor.dtype, bytes(tensor.data)) == (dtype, rounded.tobytes())


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if fitting(kind, SHAPES) == SHAPES])
def test_groups_step_as_the_groups_of_torch(kind: str) -> None:
    rng = np.random.default_rng(3)
    initial = draw(rng, SHAPES, DType.F64)
    decays = OPTIMIZERS[kind].has("weight_decay")
    params = {"type": kind, "lr": 0.05} | ({"weight_decay": 0.1} if decays else {})
    override = {"lr": 0.01} | ({"weight_decay": 0.0} if decays else {})
    group = {"match": ["b", "s*"], **override}
    state = started(config(params, param_groups=[group]), packed_all(initial))
    runs = {name: TorchRun(params, {name: initial[name]}) for name in ("w",)}
    runs |= {name: TorchRun(params | override, {name: initial[name]}) for name in ("b", "scalar")}
    for n in range(STEPS):
        gradients = draw(rng, SHAPES, DType.F64)
        take(state, packed_all(gradients))
        for name, run in runs.items():
            run.optimizer.param_groups[0]["lr"] = 0.01 if name in ("b", "scalar") else 0.05
            before = run.values(name).copy()
            run.step(gradients)
            assert error(values(state, name), run.values(name), before) <= 1e-12, (name, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@KINDS
def test_the_loops_alone_step_as_torch(kind: str, dtype: type[Any]) -> None:
    rng = np.random.default_rng(11)
    for params in examples(kind):
        optimizer = OPTIMIZERS[kind].model_validate(params)
        shape = (5, 10) if optimizer.whole else (50,)
        arrays = [rng.standard_normal(shape).astype(dtype)]
        arrays += [np.zeros(own, dtype) for own in (shape, *optimizer.slots_of(shape).values())]
        seen = [matrices(a.ravel(), a.shape) if optimizer.whole else a for a in arrays]
        run = TorchRun(params, {"p": arrays[0]})
        scalars: Scalars = {}
        for step in range(1, STEPS + 1):
            lr = run.optimizer.param_groups[0]["lr"]
            np.copyto(arrays[1], rng.standard_normal(shape).astype(dtype))
            before = arrays[0].copy()
            run.step({"p": arrays[1]})
            coefficients, scalars = optimizer.due(lr, step, fresh=step == 1, scalars=scalars)
            sign = -1.0 if optimizer.maximize else 1.0
            COMPUTE.step(optimizer.rule_of(shape), seen, (sign, math.inf, *coefficients))
            allowed = TOLERANCE[DType.F32 if dtype is np.float32 else DType.F64]
            assert error(arrays[0], run.values("p"), before) <= allowed
            np.copyto(arrays[0], run.values("p"))


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("betas", [[0, 0], [0, 0.5], [0.3, 0.1], [0.5, 0.5]])
def test_a_small_gradient_after_a_large_one_steps_as_in_torch(
    betas: list[float], dtype: DType
) -> None:
    params = {"type": "Adam", "lr": 0.1, "betas": betas, "eps": 0.0}
    state = started(config(params, dtype, scheduler=SCHEDULER), {"w": packed([1.0, 1.0], dtype)})
    run = TorchRun(params, {"w": values(state, "w")})
    for scale in (1.0, 1e-9, 1e-18, 1e-4):
        gradient = np.array([1.0, -0.7], dtype.master.storage) * scale
        gradient = gradient.astype(dtype.master.storage)
        take(state, {"w": packed(gradient, dtype)})
        before = run.values("w").copy()
        run.step({"w": gradient})
        assert error(values(state, "w"), run.values("w"), before) <= TOLERANCE[dtype]
