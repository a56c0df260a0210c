"""Accept says how much each form is wanted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.datastructures import Headers

from gradstep_server.web.accept import Preference, accepted, preference, ranges

FILE = "application/vnd.safetensors"


def _asked(*lines: str) -> Mapping[str, float]:
    return ranges(accepted(Headers(raw=[(b"accept", line.encode()) for line in lines])))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), (1.0, 0)),
        (("",), (1.0, 0)),
        (("*/*",), (1.0, 0)),
        (("application/*;q=0.8",), (0.8, 1)),
        (("application/octet-stream",), (1.0, 2)),
        ((f"{FILE};q=0.25",), (0.25, 3)),
        (("Application/VND.safetensors ; Q=0.5 , */*",), (0.5, 3)),
        ((f"*/*;q=1, {FILE};q=0",), (0.0, 3)),
        ((f"application/octet-stream, {FILE};q=0",), (0.0, 3)),
        (("text/html", f"{FILE};q=0.5"), (0.5, 3)),
        ((f"{FILE};version=1;q=0.5",), (0.5, 3)),
        ((f"{FILE};q=0.5, {FILE};q=0.75, {FILE};q=0.25",), (0.75, 3)),
        ((f"{FILE};dtype=BF16",), (0.0, 0)),
        ((f"*/*;dtype=BF16, {FILE};q=0.5",), (0.5, 3)),
        (("text/*, image/png",), (0.0, 0)),
    ],
)
def test_the_most_precise_range_decides(lines: tuple[str, ...], expected: Preference) -> None:
    assert preference(_asked(*lines), FILE, "application/octet-stream") == expected


@pytest.mark.parametrize("weight", ["", "x", "-1", "1.1", "nan", "inf", "1e400"])
def test_a_weight_that_is_none_makes_its_range_unwanted(weight: str) -> None:
    assert preference(_asked(f"{FILE};q={weight}"), FILE) == (0.0, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{FILE};dtype=BF16", (1.0, 3)),
        (f'{FILE} ; q=0.5 ; Dtype="BF16"', (0.5, 3)),
        ("application/octet-stream;dtype=bf16", (1.0, 2)),
        (f"{FILE}, application/*, */*, {FILE};dtype=F16", (0.0, 0)),
        (f"{FILE};dtype=F16;dtype=BF16", (0.0, 0)),
    ],
)
def test_a_dtype_is_a_form_of_its_own_that_has_to_be_named(text: str, expected: Preference) -> None:
    names = (f"{FILE};dtype=bf16", "application/octet-stream;dtype=bf16")
    assert preference(_asked(text), *names) == expected
