"""What a session did, and what it will do."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from session_app import SAFETENSORS, SGD, Service, f32, file, running

GROUPS = [{"match": ["b"], "lr": 0.01}]
COMPOSITE = {
    "type": "SequentialLR",
    "schedulers": [
        {"type": "LinearLR", "start_factor": 0.25, "total_iters": 4},
        {"type": "CosineAnnealingLR", "T_max": 9, "eta_min": 0.001},
    ],
    "milestones": [4],
}
SCHEDULES: dict[str, Any] = {
    "none": None,
    "StepLR": {"type": "StepLR", "step_size": 3},
    "MultiStepLR": {"type": "MultiStepLR", "milestones": [2, 2, 5], "gamma": 0.5},
    "ExponentialLR": {"type": "ExponentialLR", "gamma": 0.9},
    "warm-up and cosine": COMPOSITE,
}


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def _session(service: Service, **config: Any) -> str:
    return service.session("a", params={"w": [1.0], "b": [1.0]}, param_groups=GROUPS, **config)


def _step(service: Service, path: str, **body: Any) -> dict[str, Any]:
    answer = service.post(f"{path}/steps", json={"grads": {"w": [3], "b": [4]}, **body})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture
def told(service: Service) -> str:
    """A session of five steps, the third of them skipped."""
    path = _session(
        service,
        scheduler=SCHEDULES["ExponentialLR"],
        clip={"type": "norm", "max_norm": 6},
        on_nonfinite="skip",
    )
    _step(service, path, loss=0.5)
    _step(service, path, grads={"w": [30]})
    bad = file({"w": f32(np.nan)})
    assert service.put(f"{path}/steps/3", content=bad, headers=SAFETENSORS).status_code == 201
    _step(service, path, lr=0.5)
    _step(service, path, loss=0.25)
    return path


def test_the_history_has_a_column_for_each_fact(service: Service, told: str) -> None:
    history = service.get(f"{told}/history").json()
    assert history["step"] == [1, 2, 3, 4, 5]
    assert history["loss"] == [0.5, None, None, None, 0.25]
    assert history["grad_norm"] == [5, 30, None, 5, 5]
    assert history["applied"] == [True, True, False, True, True]
    assert history["clipped"] == [False, True, False, False, False]
    assert history["lr"][3] == [0.5, 0.5]
    assert history["lr"][4] == pytest.approx([0.1 * 0.9**4, 0.01 * 0.9**4], rel=1e-12)
    assert history["next"] is None


def test_the_history_is_what_the_receipts_said(service: Service, told: str) -> None:
    history = service.get(f"{told}/history").json()
    for i, step in enumerate(history["step"]):
        receipt = service.get(f"{told}/steps/{step}").json()
        for column in ("lr", "grad_norm", "loss", "applied", "clipped"):
            assert history[column][i] == receipt[column]


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_pages_join_to_the_whole(service: Service, told: str, limit: int) -> None:
    whole = service.get(f"{told}/history").json()
    steps, after = [], 0
    while after is not None:
        page = service.get(f"{told}/history", params={"after": after, "limit": limit}).json()
        assert len(page["step"]) == len(page["lr"]) <= limit
        steps += list(zip(page["step"], page["lr"], page["loss"], strict=True))
        after = page["next"]
    assert steps == list(zip(whole["step"], whole["lr"], whole["loss"], strict=True))


def test_the_history_as_csv_is_the_same(service: Service, told: str) -> None:
    history = service.get(f"{told}/history").json()
    answer = service.get(f"{told}/history", params={"format": "csv"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == ["step", "lr_0", "lr_1", "grad_norm", "loss", "applied", "clipped"]
    assert [int(row["step"]) for row in rows] == history["step"]
    assert [[float(row["lr_0"]), float(row["lr_1"])] for row in rows] == history["lr"]
    assert [row["loss"] for row in rows] == ["0.5", "", "", "", "0.25"]
    assert [row["applied"] for row in rows] == ["true", "true", "false", "true", "true"]


def test_csv_is_paged_too(service: Service, told: str) -> None:
    query: dict[str, str | int] = {"format": "csv", "after": 1, "limit": 2}
    lines = service.get(f"{told}/history", params=query).text.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step", "2", "3"]


@pytest.mark.parametrize("steps", [0, 1])
def test_an_empty_page_of_history_has_the_same_columns(service: Service, steps: int) -> None:
    path = _session(service)
    for _ in range(steps):
        _step(service, path)
    query: dict[str, str | int] = {"after": steps, "format": "csv"}
    empty = service.get(f"{path}/history", params=query)
    assert empty.text == "step,lr_0,lr_1,grad_norm,loss,applied,clipped\n"
    told = service.get(f"{path}/history", params={"after": steps}).json()
    assert (told["step"], told["lr"], told["next"]) == ([], [], None)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_preview_is_what_the_steps_then_use(service: Service, schedule: str) -> None:
    path = _session(service, scheduler=SCHEDULES[schedule])
    preview = service.get(f"{path}/schedule", params={"steps": 12}).json()
    receipts = [_step(service, path) for _ in range(12)]
    assert preview["step"] == list(range(12))
    used = [list(group) for group in zip(*(told["lr"] for told in receipts), strict=True)]
    assert preview["lr"] == used
    assert [told["next_lr"] for told in receipts[:-1]] == [told["lr"] for told in receipts[1:]]


def test_a_preview_begins_where_the_session_stands(service: Service) -> None:
    path = _session(service, scheduler=COMPOSITE)
    whole = service.get(f"{path}/schedule", params={"steps": 20}).json()
    for _ in range(3):
        _step(service, path)
    rest = service.get(f"{path}/schedule", params={"steps": 17}).json()
    assert rest["step"] == whole["step"][3:]
    assert rest["lr"] == [group[3:] for group in whole["lr"]]
    again = service.get(f"{path}/schedule", params={"steps": 20, "start": 0}).json()
    assert again == whole


def test_a_preview_counts_epochs_where_the_schedule_does(service: Service) -> None:
    path = _session(service, scheduler=COMPOSITE, schedule_on="epoch")
    preview = service.get(f"{path}/schedule", params={"steps": 4}).json()
    used = []
    for epoch in range(1, 5):
        used.append(_step(service, path)["lr"])
        _step(service, path)
        service.put(f"{path}/epochs/{epoch}")
    assert preview["lr"] == [list(group) for group in zip(*used, strict=True)]
    assert service.get(f"{path}/schedule", params={"steps": 1}).json()["step"] == [4]


def test_a_patched_schedule_is_previewed_from_its_own_beginning(service: Service) -> None:
    path = _session(service)
    for _ in range(3):
        _step(service, path)
    service.patch(path, json={"scheduler": SCHEDULES["StepLR"], "lr": 0.2})
    preview = service.get(f"{path}/schedule", params={"steps": 6}).json()
    receipts = [_step(service, path) for _ in range(6)]
    assert preview["step"] == list(range(6))
    assert preview["lr"][0] == [told["lr"][0] for told in receipts]
    assert receipts[0]["lr"] == [0.2, 0.01]


@pytest.mark.parametrize("query", [{"stride": 5, "steps": 20}, {"max_points": 6, "steps": 20}])
def test_a_preview_has_the_windows_of_a_schedule(service: Service, query: dict[str, int]) -> None:
    path = _session(service, scheduler=COMPOSITE)
    whole = service.get(f"{path}/schedule", params={"steps": 20}).json()
    part = service.get(f"{path}/schedule", params=query).json()
    assert len(part["step"]) <= 6
    assert part["lr"][1] == [whole["lr"][1][step] for step in part["step"]]


def test_a_preview_equals_the_stateless_curve(service: Service) -> None:
    path = _session(service, scheduler=COMPOSITE)
    preview = service.get(f"{path}/schedule", params={"steps": 30}).json()
    body = {"scheduler": COMPOSITE, "base_lr": [0.1, 0.01], "steps": 30}
    assert preview == service.post("/v1/schedules", json=body).json()


@pytest.mark.parametrize(
    ("form", "media", "begins"),
    [
        ("json", "application/json", '{"step":['),
        ("columns", "application/json", '{"step":['),
        ("rows", "application/json", '[{"step":0,"lr":[0.1,0.01]}'),
        ("csv", "text/csv; charset=utf-8", "step,lr_0,lr_1\n0,0.1,0.01\n"),
        ("svg", "image/svg+xml", "<svg"),
    ],
)
def test_a_preview_comes_in_every_format(
    service: Service, form: str, media: str, begins: str
) -> None:
    path = _session(service, scheduler=SCHEDULES["StepLR"], name="the digits")
    answer = service.get(f"{path}/schedule", params={"format": form})
    assert answer.headers["Content-Type"] == media
    assert answer.text.startswith(begins)
    assert form != "svg" or "the digits" in answer.text


@pytest.mark.parametrize("name", ["</title><script>&amp;", "]]><!--", "'\"&#0;"])
def test_a_name_is_text_in_the_picture(service: Service, name: str) -> None:
    path = _session(service, name=name)
    picture = service.get(f"{path}/schedule", params={"format": "svg"}).content
    drawn = list(ET.fromstring(picture).iter())  # noqa: S314 - our own output
    texts = [element.text for element in drawn if element.tag.endswith(("title", "text"))]
    assert texts.count(name) == 2
    assert not [element for element in drawn if element.tag.endswith("script")]


def test_no_name_stands_in_a_table(service: Service) -> None:
    """A spreadsheet runs a cell that begins with a sign of equality."""
    formula = "=1+1"
    groups = [{"match": [formula], "lr": 0.01}]
    path = service.session("a", name=formula, params={formula: [1.0]}, param_groups=groups)
    service.put(f"{path}/steps/1", json={"grads": {formula: [1]}})
    for table in ("history", "schedule"):
        text = service.get(f"{path}/{table}", params={"format": "csv"}).text
        header, *rows = [line.split(",") for line in text.splitlines()]
        assert header[:3] == ["step", "lr_0", "lr_1"]
        assert all(re.fullmatch(r"[0-9.e+-]*|true|false", cell) for row in rows for cell in row)


def test_a_preview_says_nothing_of_the_session(service: Service) -> None:
    path = service.session("a", optimizer=SGD)
    before = service.get(path).json()
    assert service.get(f"{path}/schedule").json()["lr"] == [[0.1] * 100]
    assert service.get(path).json() == before
