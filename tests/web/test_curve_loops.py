"""Curves as a training loop makes them."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from httpx import Response
from stateless_app import client

HALVED = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
URL = "/v1/schedules/StepLR?step_size=2&gamma=0.5&base_lr=1"
PEAK = "/v1/schedules/OneCycleLR?max_lr=1&epochs=4&steps_per_epoch=5&base_lr=1"


def _post(scheduler: dict[str, Any] = HALVED, form: str = "json", **rest: Any) -> Response:
    body = {"scheduler": scheduler, "base_lr": 1, "steps": 6, **rest}
    return client().post(f"/v1/schedules?format={form}", json=body)


def _places(answer: Response) -> dict[str, str]:
    assert answer.status_code == 422
    return {error["pointer"]: error["detail"] for error in answer.json()["errors"]}


def test_the_rate_stays_until_the_optimizer_steps() -> None:
    assert _post(gradient_accumulation=2).json()["lr"] == [1, 1, 1, 1, 0.5, 0.5]


def test_an_epoch_ends_with_a_step_of_the_optimizer() -> None:
    asked: dict[str, Any] = {"gradient_accumulation": 2, "steps_per_epoch": 3}
    assert _post(**asked).json()["lr"] == [1, 1, 1, 0.5, 0.5, 0.5]


def test_every_process_steps_the_scheduler() -> None:
    assert _post(num_processes=2).json()["lr"] == [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


def test_a_scheduler_may_be_stepped_after_each_epoch() -> None:
    asked: dict[str, Any] = {"steps_per_epoch": 1, "schedule_on": "epoch"}
    assert _post(**asked).json()["lr"] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_momentum_moves_with_the_rate() -> None:
    cycle = {"type": "CyclicLR", "max_lr": 1, "step_size_up": 2}
    once = _post(cycle, steps=3).json()["momentum"]
    assert _post(cycle, gradient_accumulation=2).json()["momentum"] == [
        value for value in once for _ in range(2)
    ]


def test_steps_in_epochs_have_a_position_in_epochs() -> None:
    answer = _post(unit="epoch", steps_per_epoch=2, start=1, steps=2).json()
    assert (answer["step"], answer["position"]) == ([2, 3, 4, 5], [1, 1.5, 2, 2.5])
    assert answer["lr"] == [0.5, 0.5, 0.25, 0.25]


def test_steps_in_samples_have_a_position_in_samples() -> None:
    answer = _post(unit="sample", batch_size=8, num_processes=2, start=10, steps=38).json()
    assert (answer["step"], answer["position"]) == ([1, 2], [16, 32])


def test_rows_and_csv_hold_the_position_where_it_is_asked_for() -> None:
    asked: dict[str, Any] = {"unit": "epoch", "steps_per_epoch": 2, "steps": 1}
    rows = [{"step": 0, "position": 0.0, "lr": 1.0}, {"step": 1, "position": 0.5, "lr": 1.0}]
    assert _post(form="rows", **asked).json() == rows
    table = list(csv.DictReader(io.StringIO(_post(form="csv", **asked).text)))
    assert [row["position"] for row in table] == ["0.0", "0.5"]
    assert _post(form="csv", steps=1).text == "step,lr\n0,1.0\n"
    assert "position" not in _post(form="rows").json()[0]


def test_a_picture_shows_the_unit() -> None:
    page = _post(form="svg", unit="epoch", steps_per_epoch=50).text
    assert ">epoch</text>" in page
    assert "from epoch 0.0 to epoch 5.98" in page
    assert ">sample</text>" in _post(form="svg", unit="sample", batch_size=2).text


def test_decimation_keeps_positions_and_rates_together() -> None:
    asked: dict[str, Any] = {"unit": "epoch", "steps_per_epoch": 500, "num_processes": 3}
    cosine = {"type": "CosineAnnealingLR", "T_max": 9_000}
    whole = _post(cosine, **asked).json()
    few = _post(cosine, max_points=20, **asked).json()
    assert len(few["step"]) <= 20
    for name in ("position", "lr"):
        assert few[name] == [whole[name][step] for step in few["step"]]


def test_the_loop_fits_a_url() -> None:
    answer = client().get(f"{URL}&steps=2&steps_per_epoch=2&num_processes=2&unit=epoch").json()
    assert answer["lr"] == [1, 0.5, 0.25, 0.125]


def test_what_a_kind_and_the_loop_both_have_is_told_to_both() -> None:
    answer = client().get(f"{PEAK}&steps=4&unit=epoch").json()
    assert (len(answer["lr"]), max(answer["lr"])) == (20, 1)
    assert answer["warnings"] == []
    spec = '{"max_lr":1,"total_steps":20}'
    by_spec = f"/v1/schedules/OneCycleLR?spec={spec}&base_lr=1&steps=4&unit=epoch&steps_per_epoch=5"
    assert client().get(by_spec).json()["lr"] == answer["lr"]


def test_what_is_wrong_with_a_shared_parameter_is_said_once() -> None:
    wrong = client().get("/v1/schedules/OneCycleLR?max_lr=1&epochs=4&steps_per_epoch=0&base_lr=1")
    errors = [(error["pointer"], error["detail"]) for error in wrong.json()["errors"]]
    assert ("/query/steps_per_epoch", errors[0][1]) in errors
    assert len(errors) == len(set(errors))


def test_a_metric_is_handed_to_every_step_of_the_scheduler() -> None:
    plateau = {"type": "ReduceLROnPlateau", "patience": 3, "factor": 0.5}
    epochs: dict[str, Any] = {"schedule_on": "epoch", "steps_per_epoch": 1, "metrics": [1] * 5}
    assert _post(plateau, **epochs).json()["lr"] == [1, 1, 1, 1, 1, 0.5]
    answer = _post(plateau, num_processes=2, **epochs).json()
    assert answer["lr"] == [1, 1, 1, 0.5, 0.5, 0.25]
    assert answer["warnings"] == []


@pytest.mark.parametrize(
    ("asked", "pointer", "detail"),
    [
        ({"unit": "epoch"}, "/unit", "epoch needs steps_per_epoch, which is missing"),
        ({"unit": "sample"}, "/unit", "sample needs batch_size, which is missing"),
        ({"schedule_on": "epoch"}, "/schedule_on", "epoch needs steps_per_epoch"),
        ({"last_epoch": 3, "num_processes": 2}, "/last_epoch", "give start instead"),
        ({"last_epoch": 3, "gradient_accumulation": 2}, "/last_epoch", "give start instead"),
        ({"last_epoch": 3, "unit": "epoch", "steps_per_epoch": 2}, "/last_epoch", "give start"),
        ({"unit": "batch"}, "/unit", ""),
        ({"num_processes": 0}, "/num_processes", ""),
        ({"gradient_accumulation": 1.5}, "/gradient_accumulation", ""),
        ({"unit": "epoch", "steps_per_epoch": 0}, "/steps_per_epoch", ""),
        ({"unit": "sample", "batch_size": 8, "start": 1, "steps": 3}, "/steps", "no step of the"),
        ({"num_processes": 2**52, "steps": 3}, "/steps", "must end by step"),
    ],
)
def test_what_contradicts_itself_is_refused(
    asked: dict[str, Any], pointer: str, detail: str
) -> None:
    places = _places(_post(**asked))
    assert list(places) == [pointer]
    assert detail in places[pointer]


def test_a_contradiction_in_a_url_names_its_parameter() -> None:
    assert list(_places(client().get(f"{URL}&unit=epoch"))) == ["/query/unit"]
    assert list(_places(client().get(f"{URL}&steps=0&last_epoch=3&num_processes=2"))) == [
        "/query/steps",
        "/query/last_epoch",
    ]


def test_a_rate_that_cannot_be_used_is_named_by_the_schedulers_step() -> None:
    down = {"type": "ExpressionLR", "expression": "10 - t"}
    (detail,) = _places(_post(down, num_processes=4)).values()
    assert "at step 12 is below 0" in detail
    assert "the schedule's own" in detail
