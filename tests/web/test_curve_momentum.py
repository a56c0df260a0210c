"""The second series of a curve: the momentum, where a schedule moves it."""

from __future__ import annotations

import csv
import io
from typing import Any

from stateless_app import client

PEAK = {
    "type": "OneCycleLR",
    "max_lr": 1,
    "total_steps": 12,
    "pct_start": 0.25,
    "anneal_strategy": "linear",
    "max_momentum": 0.75,
    "base_momentum": 0.25,
}
MOMENTUM = [0.75, 0.5, 0.25]
THEN = {
    "type": "SequentialLR",
    "schedulers": [{"type": "ConstantLR"}, PEAK],
    "milestones": [1],
}


def _post(scheduler: dict[str, Any], form: str = "json", **window: Any) -> Any:
    body = {"scheduler": scheduler, "base_lr": 0.1, "steps": 3, **window}
    response = client().post(f"/v1/schedules?format={form}", json=body)
    assert response.status_code == 200
    return response.text if form == "csv" else response.json()


def test_the_momentum_stands_beside_the_rates() -> None:
    answer = _post(PEAK)
    assert answer["momentum"] == MOMENTUM
    assert len(answer["lr"]) == len(answer["momentum"])


def test_all_groups_have_the_same_momentum() -> None:
    assert _post(PEAK, base_lr=[0.1, 0.2])["momentum"] == MOMENTUM


def test_a_schedule_that_leaves_the_momentum_alone_has_none() -> None:
    assert _post({**PEAK, "cycle_momentum": False})["momentum"] is None
    assert _post({"type": "LinearLR"})["momentum"] is None
    assert "momentum" not in _post({"type": "LinearLR"}, "csv")
    assert "momentum" not in _post({"type": "LinearLR"}, "rows")[0]


def test_where_the_optimizer_keeps_its_own_the_momentum_is_null() -> None:
    assert _post(THEN)["momentum"] == [None, *MOMENTUM[:2]]
    assert [row["momentum"] for row in _post(THEN, "rows")] == [None, *MOMENTUM[:2]]


def test_csv_leaves_the_cell_of_an_unmoved_momentum_empty() -> None:
    table = list(csv.DictReader(io.StringIO(_post(THEN, "csv"))))
    assert [row["momentum"] for row in table] == ["", "0.75", "0.5"]
    assert float(table[0]["lr"]) == 0.1 / 3


def test_a_decimated_curve_keeps_rate_and_momentum_together() -> None:
    full = _post(PEAK, steps=12)
    kept = _post(PEAK, steps=12, max_points=5)
    assert len(kept["step"]) < 12
    index = [full["step"].index(step) for step in kept["step"]]
    assert kept["momentum"] == [full["momentum"][i] for i in index]
