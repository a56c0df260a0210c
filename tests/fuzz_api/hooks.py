"""What schemathesis cannot know: how bodies of tensors are made."""

from __future__ import annotations

import numpy as np
import schemathesis
from hypothesis import strategies as st
from safetensors.numpy import save

MEDIA_TYPE = "application/vnd.safetensors"

_NAMES = st.sampled_from(["w", "b", "layer.weight", "", "é", "__metadata__"]) | st.text(max_size=8)
_DTYPES = st.sampled_from(["float32", "float64", "float16", "int64", "bool"])
_SHAPES = st.lists(st.integers(0, 3), max_size=3)
_VALUES = st.sampled_from([0.0, 1.0, -1e30, float("nan"), float("inf")])


def _file(tensors: dict[str, tuple[str, list[int], float]], metadata: dict[str, str]) -> bytes:
    with np.errstate(all="ignore"):
        arrays = {
            name: np.full(shape, value).astype(dtype)
            for name, (dtype, shape, value) in tensors.items()
        }
    return save(arrays, metadata or None)


_WHOLE = st.builds(
    _file,
    st.dictionaries(_NAMES, st.tuples(_DTYPES, _SHAPES, _VALUES), max_size=4),
    st.dictionaries(st.sampled_from(["loss", "lr", "step", "gradstep"]), st.text(max_size=8)),
)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """Draw a file, one with a wrong byte, one cut off, or bytes that are none."""
    body = draw(_WHOLE)
    match draw(st.sampled_from(["whole", "whole", "wrong", "short", "none"])):
        case "wrong":
            at = draw(st.integers(0, len(body) - 1))
            return body[:at] + draw(st.binary(min_size=1, max_size=1)) + body[at + 1 :]
        case "short":
            return body[: draw(st.integers(0, len(body)))]
        case "none":
            return draw(st.binary(max_size=64))
    return body


schemathesis.openapi.media_type(MEDIA_TYPE, _bodies())


def _as_it_is(_context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


schemathesis.serializer(MEDIA_TYPE)(_as_it_is)
