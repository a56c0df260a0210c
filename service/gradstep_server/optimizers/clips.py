"""The kinds of clipping there are: one class each, and their union.

A clip looks at the gradients of a step and says by what they are multiplied and
within what they are held. It takes hold before `maximize` and before any decay.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray

from gradstep_server.kinds import Kind, Positive, Reject, TaggedUnion
from gradstep_server.optimizers.clipping import Clipping, Measured, Present, part_norms, peak
from gradstep_server.optimizers.compute import Compute, FloatArray

TORCH_EPS = 1e-6
"""What clip_grad_norm_ adds to the norm that it divides by."""

_LEAST_NORM = 1e-6
"""The smallest norm that adaptive clipping divides by, in optax and timm."""


class Clip(Kind):
    """The base of every clipping class."""

    @abstractmethod
    def done_to(self, gradients: Measured) -> Clipping:
        """Return what clipping does to the finite gradients of a step."""


class _PartClip(Clip):
    """Clipping that looks at each tensor by itself, or at each of its units."""

    @abstractmethod
    def scales(self, tensor: Present, compute: Compute) -> NDArray[np.float64]:
        """Return what each of the tensor's equal parts is multiplied by, at most 1."""

    def done_to(self, gradients: Measured) -> Clipping:
        """Return the scales of the tensors that are too large."""
        scales: dict[str, FloatArray] = {}
        for tensor in gradients.tensors:
            if tensor.gradient.size:
                exact = self.scales(tensor, gradients.compute)
                found = cast("FloatArray", exact.astype(tensor.gradient.dtype))
                if (found < 1).any():
                    scales[tensor.name] = found
        return Clipping(1.0, math.inf, clipped=bool(scales), scales=scales)


class ClipNorm(Clip):
    """Scale all gradients of a step so that their global L2 norm is at most `max_norm`.

    The norm is accumulated in float64, where torch's own float32 norm is off by
    1e-5 at a million elements.
    """

    type: Literal["norm"] = "norm"

    max_norm: Positive
    """The largest norm, over the present tensors of all groups."""

    formula = r"g \leftarrow g \cdot \min\bigl(1,\ c / (\lVert g \rVert_2 + 10^{-6})\bigr)"
    torch_name = "torch.nn.utils.clip_grad_norm_"
    examples = ({"max_norm": 1.0},)
    rejects = (
        Reject({"max_norm": 0}, "max_norm"),
        Reject({"max_norm": True}, "max_norm"),
        Reject({"max_norm": math.inf}, "max_norm"),
        Reject({"max_norm": 1.0, "value": 1.0}, "value"),
        Reject({}, "max_norm"),
    )

    def done_to(self, gradients: Measured) -> Clipping:
        """Return one scale for all elements."""
        scale = min(self.max_norm / (gradients.norm + TORCH_EPS), 1.0)
        return Clipping(scale, math.inf, clipped=scale < 1)


class ClipValue(Clip):
    """Hold every element of the gradients within ±`value`."""

    type: Literal["value"] = "value"

    value: Positive
    """The largest magnitude of an element."""

    formula = r"g_i \leftarrow \min(\max(g_i, -c), c)"
    torch_name = "torch.nn.utils.clip_grad_value_"
    examples = ({"value": 0.5},)
    rejects = (
        Reject({"value": 0}, "value"),
        Reject({"value": math.inf}, "value"),
        Reject({"max_norm": 1.0}, "value"),
    )

    def done_to(self, gradients: Measured) -> Clipping:
        """Return the bound of all elements."""
        clipped = any(g.size and peak(g) > self.value for g in gradients.arrays)
        return Clipping(1.0, self.value, clipped=clipped)


class ClipBlockRMS(_PartClip):
    """Scale each tensor's gradient so that the root of its mean square is at most `threshold`.

    Every tensor by itself, however large the others are. Source: Shazeer and Stern,
    "Adafactor", 2018, section 6.
    """

    type: Literal["block_rms"] = "block_rms"

    threshold: Positive = 1.0
    """The largest root mean square of a tensor's gradient."""

    formula = r"g \leftarrow g / \max\bigl(1,\ \mathrm{RMS}(g) / d\bigr)"
    torch_name = ""
    reference = "optax.clip_by_block_rms"
    examples = ({}, {"threshold": 0.25})
    rejects = (
        Reject({"threshold": 0}, "threshold"),
        Reject({"threshold": -1}, "threshold"),
        Reject({"max_norm": 1.0}, "max_norm"),
    )

    def scales(self, tensor: Present, compute: Compute) -> NDArray[np.float64]:
        """Return one scale for the whole tensor."""
        rms = part_norms(tensor.gradient, 1, compute) / math.sqrt(tensor.gradient.size)
        scale: NDArray[np.float64] = self.threshold / np.maximum(rms, self.threshold)
        return scale


class ClipAdaptive(_PartClip):
    """Scale each unit's gradient so that its norm is at most `clipping` times its weights' norm.

    A unit is a row: all that shares the first index of a tensor with two or
    more dimensions, which in torch's layout is what leads to one output of a
    linear or convolutional layer; a vector or a scalar is one unit. These are the
    units of timm's `adaptive_clip_grad`. optax names them by the layouts of
    JAX, where outputs come last: with the axes reversed they are the same, but
    that a matrix of one column is one unit there. Source: Brock et al.,
    "High-Performance Large-Scale Image Recognition Without Normalization", 2021.
    """

    type: Literal["adaptive"] = "adaptive"

    clipping: Positive = 0.01
    """The largest gradient norm λ, as a share of the norm of the weights."""

    eps: Positive = 1e-3
    """The least norm of the weights to count with, so that zeros can grow."""

    formula = (
        r"g_i \leftarrow g_i \cdot \lambda \max(\lVert\theta_i\rVert_2, \epsilon) / "
        r"\lVert g_i \rVert_2 \quad\text{where that is below } g_i"
    )
    torch_name = ""
    reference = "optax.adaptive_grad_clip"
    examples = ({}, {"clipping": 0.1, "eps": 0.01})
    rejects = (
        Reject({"clipping": 0}, "clipping"),
        Reject({"eps": 0}, "eps"),
        Reject({"clipping": 0.1, "axis": 0}, "axis"),
    )

    def scales(self, tensor: Present, compute: Compute) -> NDArray[np.float64]:
        """Return one scale for each unit."""
        units = tensor.shape[0] if len(tensor.shape) > 1 else 1
        norms = part_norms(tensor.gradient, units, compute)
        with np.errstate(over="ignore"):  # then no gradient is too large
            weights = np.maximum(part_norms(tensor.values, units, compute), self.eps)
            largest = self.clipping * weights
        scales: NDArray[np.float64] = largest / np.maximum(norms, _LEAST_NORM)
        return np.where(norms < largest, 1.0, scales)


_KINDS: tuple[type[Clip], ...] = (ClipNorm, ClipValue, ClipBlockRMS, ClipAdaptive)

CLIPS: dict[str, type[Clip]] = {kind.kind_name(): kind for kind in _KINDS}
"""Every clipping class by the value of its ``type``."""

AnyClip = Annotated[Clip, TaggedUnion(lambda: _KINDS)]
"""Validates to the class that ``type`` names."""
