"""Curves of a schedule that follows a metric."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import Response
from stateless_app import client

PLATEAU = {"type": "ReduceLROnPlateau", "patience": 1, "factor": 0.5}
LOSSES = [3, 2, 2, 2, None]
RATES = [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]
"""The second loss in a row that is no better lowers the rate of the step behind it."""

URL = "/v1/schedules/ReduceLROnPlateau?patience=1&factor=0.5&base_lr=0.1&steps=7"


def _post(scheduler: dict[str, Any] = PLATEAU, **rest: Any) -> Response:
    body = {"scheduler": scheduler, "base_lr": 0.1, "steps": 7, **rest}
    return client().post("/v1/schedules", json=body)


def test_a_rate_knows_what_was_measured_before_its_step() -> None:
    answer = _post(metrics=LOSSES).json()
    assert answer["lr"] == RATES


def test_a_resumed_curve_knows_what_was_measured_before_it() -> None:
    answer = _post(metrics=LOSSES, last_epoch=2, steps=4).json()
    assert (answer["step"], answer["lr"]) == ([3, 4, 5, 6], RATES[3:])


def test_where_nothing_is_known_to_be_measured_the_rate_is_held_and_that_is_said() -> None:
    (warning,) = _post(metrics=LOSSES).json()["warnings"]
    assert "after step 5 " in warning
    assert _post(metrics=LOSSES, steps=6).json()["warnings"] == []
    without = _post().json()
    assert without["lr"] == [0.1] * 7
    assert "after step 0 " in without["warnings"][0]


@pytest.mark.parametrize("metrics", ["3,2,2,2,null", "[3,2,2,2,null]"])
def test_metrics_fit_a_url(metrics: str) -> None:
    assert client().get(f"{URL}&metrics={metrics}").json()["lr"] == RATES


def test_a_single_metric_needs_no_brackets() -> None:
    assert "after step 1 " in client().get(f"{URL}&metrics=3").json()["warnings"][0]


def test_a_kind_that_follows_no_metric_refuses_them() -> None:
    refused = _post({"type": "LinearLR"}, metrics=LOSSES)
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "/metrics"
    assert "LinearLR follows none" in error["detail"]
    assert client().get("/v1/schedules/LinearLR?base_lr=1&metrics=3").status_code == 422


@pytest.mark.parametrize("metrics", [["a"], [True], 3, "text", [[1]], {"0": 1}])
def test_a_metric_is_a_number_or_null(metrics: object) -> None:
    assert _post(metrics=metrics).status_code == 422


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_a_composite_refuses_a_scheduler_that_follows_a_metric(kind: str) -> None:
    schedulers = [{"type": "LinearLR"}, PLATEAU]
    refused = _post({"type": kind, "schedulers": schedulers, "milestones": [3]}, metrics=LOSSES)
    assert refused.status_code == 422
    pointers = [error["pointer"] for error in refused.json()["errors"]]
    assert "/scheduler/schedulers" in pointers
