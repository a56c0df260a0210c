"""Every kind of clipping against torch, and against optax's formulas written in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from session_states import COMPUTE, Array
from torch_optimizers import clip_gradients

from gradstep_server.kinds import Reject
from gradstep_server.optimizers import CLIPS, AnyClip, Clip, Clipping
from gradstep_server.optimizers.clipping import Measured, Present, scale_parts, tensor_norm

CLIP: TypeAdapter[Clip] = TypeAdapter(AnyClip)
NUMBERS = st.floats(-1e3, 1e3)
EXAMPLES = [{"type": name, **e} for name, kind in CLIPS.items() for e in kind.examples]
REJECTS = [(name, reject) for name, kind in CLIPS.items() for reject in kind.rejects]
SHAPES: dict[str, tuple[int, ...]] = {
    "linear": (3, 4),
    "conv": (2, 3, 2, 2),
    "row": (1, 5),
    "column": (5, 1),
    "bias": (6,),
    "scalar": (),
    "empty": (2, 0),
    "none": (0, 3),
}


def done(
    clip: Mapping[str, Any], gradients: Mapping[str, Array], weights: Mapping[str, Array]
) -> Clipping:
    """Return what a clip does to gradients of these weights."""
    arrays = [gradient.ravel() for gradient in gradients.values()]
    present = [
        Present(name, g.shape, weights[name].ravel(), g.ravel()) for name, g in gradients.items()
    ]
    norm = math.hypot(*(tensor_norm(array, COMPUTE) for array in arrays))
    return CLIP.validate_python(clip).done_to(Measured(norm, arrays, present, COMPUTE))


def clipped(clipping: Clipping, name: str, gradient: Array) -> Array:
    """Return what a rule sees of a gradient."""
    values = gradient.ravel().copy()
    if name in clipping.scales:
        scale_parts(values, clipping.scales[name])
    held = np.clip(values * clipping.scale, -clipping.bound, clipping.bound)
    return held.reshape(gradient.shape)


def drawn(seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return gradients and weights, some large, some small, some zero."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(2):
        scales = {
            name: 10 ** rng.uniform(-3, 1, (*s[:1], *[1] * (len(s) - 1)))
            for name, s in SHAPES.items()
        }
        made.append({name: rng.standard_normal(s) * scales[name] for name, s in SHAPES.items()})
    made[seed % 2]["linear"][0] = 0
    return made[0], made[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_survives_json(example: dict[str, Any]) -> None:
    clip = CLIP.validate_python(example)
    assert type(clip) is CLIPS[example["type"]]
    assert CLIP.validate_json(clip.model_dump_json()) == clip


@pytest.mark.parametrize(("name", "reject"), REJECTS, ids=str)
def test_a_reject_is_refused_by_the_name_of_its_field(name: str, reject: Reject) -> None:
    with pytest.raises(ValidationError) as caught:
        CLIP.validate_python({"type": name, **reject.params})
    assert next(error["loc"] for error in caught.value.errors()) == (name, reject.field)


@pytest.mark.parametrize("wrong", [{"type": "other", "value": 1.0}, {"max_norm": 1.0}], ids=str)
def test_clipping_of_no_known_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CLIP.validate_python(wrong)


@pytest.mark.parametrize("kind", CLIPS.values())
def test_a_clip_explains_itself(kind: type[Clip]) -> None:
    assert kind.summary().endswith(".")
    assert r"\leftarrow" in kind.formula
    assert bool(kind.torch_name) != bool(kind.reference)
    for name, field in kind.model_fields.items():
        assert name == "type" or (field.description or "").endswith(".")


@settings(derandomize=True, deadline=None)
@given(values=st.lists(NUMBERS, min_size=1, max_size=20), max_norm=st.floats(1e-3, 1e3))
def test_clipping_by_norm_scales_as_torch_does(values: list[float], max_norm: float) -> None:
    gradient = np.array(values)
    clipping = done({"type": "norm", "max_norm": max_norm}, {"w": gradient}, {"w": gradient})
    weight = torch.zeros(len(values), dtype=torch.float64)
    weight.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([weight], max_norm)
    np.testing.assert_allclose(
        clipped(clipping, "w", gradient), weight.grad.numpy(), rtol=1e-14, atol=0
    )
    assert (clipping.bound, dict(clipping.scales)) == (math.inf, {})
    assert clipping.clipped == (clipping.scale < 1)


@pytest.mark.parametrize(
    ("gradients", "expected"), [([[2.0], []], False), ([[1.0], [-2.5]], True), ([[]], False)]
)
def test_clipping_by_value_says_whether_it_changes_anything(
    gradients: list[list[float]], expected: bool
) -> None:
    arrays = {str(i): np.array(values) for i, values in enumerate(gradients)}
    clipping = done({"type": "value", "value": 2.0}, arrays, arrays)
    assert clipping == Clipping(1.0, 2.0, clipped=expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "clip",
    [
        {"type": "block_rms"},
        {"type": "block_rms", "threshold": 0.05},
        {"type": "adaptive"},
        {"type": "adaptive", "clipping": 0.5, "eps": 0.1},
        {"type": "adaptive", "clipping": 1e-3, "eps": 1e-9},
    ],
    ids=str,
)
def test_each_tensor_is_clipped_as_optax_clips_it(clip: dict[str, Any], seed: int) -> None:
    gradients, weights = drawn(seed)
    clipping = done(clip, gradients, weights)
    tensors = {name: torch.tensor(weight) for name, weight in weights.items()}
    for name, tensor in tensors.items():
        tensor.grad = torch.tensor(gradients[name])
    clip_gradients(list(tensors.values()), clip)
    changed = False
    for name, tensor in tensors.items():
        assert tensor.grad is not None
        expected = tensor.grad.numpy()
        got = clipped(clipping, name, gradients[name])
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=0)
        changed |= bool((expected != gradients[name]).any())
    assert clipping.clipped == bool(clipping.scales) == changed


def test_a_unit_is_a_row_and_a_vector_is_one_unit() -> None:
    gradients, weights = drawn(0)
    units = {
        name: s.size
        for name, s in done(
            {"type": "adaptive", "clipping": 1e-6, "eps": 1e-9}, gradients, weights
        ).scales.items()
    }
    assert units == {"linear": 3, "conv": 2, "row": 1, "column": 5, "bias": 1, "scalar": 1}


@pytest.mark.parametrize("clip", [{"type": "block_rms"}, {"type": "adaptive"}], ids=str)
@pytest.mark.parametrize("zero", [True, False])
def test_what_is_small_enough_stays_bit_for_bit(clip: dict[str, Any], zero: bool) -> None:
    gradients = {"w": np.zeros((2, 3)) if zero else np.full((2, 3), 1e-7)}
    assert done(clip, gradients, {"w": np.zeros((2, 3))}) == Clipping(1.0, math.inf, clipped=False)


@pytest.mark.parametrize("clip", [{"type": "block_rms"}, {"type": "adaptive"}], ids=str)
def test_gradients_whose_squares_overflow_are_clipped_too(clip: dict[str, Any]) -> None:
    gradients = {"w": np.array([[3e200, 4e200], [1e-9, 0.0]])}
    weights = {"w": np.array([[1e250, 1e250], [1.0, 1.0]])}
    clipping = done(clip, gradients, weights)
    if clip["type"] == "block_rms":
        assert clipping.scales["w"] == pytest.approx(2 / 5e200, rel=1e-14)
    else:
        assert not clipping.clipped


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_weights_that_are_not_finite_clip_nothing_of_their_own(value: float) -> None:
    gradients = {"w": np.ones((2, 2))}
    weights = {"w": np.array([[value, 1.0], [1.0, 1.0]])}
    clipping = done({"type": "adaptive"}, gradients, weights)
    assert clipping.scales["w"][1] == pytest.approx(0.01, rel=1e-12)
    assert not clipping.scales["w"][0] < 1
