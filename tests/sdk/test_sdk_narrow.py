"""Parameters rounded to half their width on the way to a client."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from sdk_clients import ADAMW, gradients, weights

import gradstep

NARROW: list[Any] = [
    ("BF16", np.float32, ml_dtypes.bfloat16, np.float32),
    ("F16", np.float32, np.float16, np.float16),
    ("F32", np.float64, np.float32, np.float32),
]
"""What is asked for, the session's own dtype, what it is rounded to, and what arrives."""


@pytest.mark.parametrize(("dtype", "own", "rounded", "arrives"), NARROW)
def test_a_step_answers_with_parameters_half_as_wide(
    client: gradstep.Client, dtype: Any, own: type, rounded: type, arrives: type
) -> None:
    """And keeps them as wide as they were: its twin, which is never asked to round, is the same."""
    session, twin = (client.sessions.create(optimizer=ADAMW, params=weights(own)) for _ in range(2))
    for n in range(1, 4):
        narrow = session.step(gradients(n, own), dtype=dtype)
        wide = twin.step(gradients(n, own))
        for name, array in narrow.items():
            assert array.dtype == arrives
            assert np.array_equal(array, wide[name].astype(rounded).astype(arrives))
    for name, array in session.params().items():
        assert np.array_equal(array, wide[name])
        assert np.array_equal(session.params(dtype=dtype)[name], narrow[name])
    first, known = session.params(1, dtype=dtype), twin.params(1)
    assert all(np.array_equal(first[name], known[name].astype(rounded)) for name in known)


def test_another_width_is_refused_before_the_step_is_taken(client: gradstep.Client) -> None:
    session = client.sessions.create(optimizer=ADAMW, params=weights())
    for dtype in ("F64", "I8", "half"):
        with pytest.raises(gradstep.InvalidRequest) as caught:
            session.step(gradients(1), dtype=dtype)  # type: ignore[arg-type] # two are none
        assert caught.value.pointer == "/query/dtype"
        with pytest.raises(gradstep.InvalidRequest):
            session.params(dtype=dtype)  # type: ignore[arg-type] # likewise
    assert session.refresh().step == 0
