"""docs/conformance.md has every kind, as `make conformance` writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance_table import PAGE

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.schedulers import SCHEDULERS

TEXT = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("kind", [*OPTIMIZERS, *SCHEDULERS])
def test_every_kind_was_compared_at_many_points_and_is_within_the_promise(kind: str) -> None:
    rows = [row[1:] for row in ROWS if row[0] == f"`{kind}`"]
    promised = [row for row in rows if not row[0].endswith("as it is: see below")]
    assert promised
    for _, points, steps, *shares in promised:
        assert int(points) >= 50
        assert int(steps.replace(",", "")) >= 1_000
        assert all(float(share) <= 1 for share in shares)


def test_the_page_says_what_the_tests_do() -> None:
    optimizers, schedulers, end = PAGE.replace("{schedulers}", "{optimizers}").split("{optimizers}")
    assert TEXT.startswith(optimizers)
    assert schedulers in TEXT
    assert TEXT.endswith(end)
