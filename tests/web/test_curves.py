"""``/v1/schedules``: a whole curve with one request."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from httpx import Response
from starlette.responses import StreamingResponse
from stateless_app import client, schedule, stateless_app

from gradstep_server.schedulers import Curve, window
from gradstep_server.schedulers.curve import CHUNK
from gradstep_server.web.curve_formats import WHOLE, CurveFormat, Drawing, respond
from gradstep_server.web.curves import caption

STEP = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
ASKED = {"scheduler": STEP, "base_lr": 0.1, "steps": 5}
URL = "/v1/schedules/StepLR?step_size=2&gamma=0.5&base_lr=0.1&steps=5"
RATES = [0.1, 0.1, 0.05, 0.05, 0.025]


def _post(body: dict[str, Any], form: str = "json", max_points: int = 10_000_000) -> Response:
    return client(stateless_app(max_points=max_points)).post(
        f"/v1/schedules?format={form}", json=body
    )


def _places(response: Response) -> list[str]:
    assert response.status_code == 422
    return [error["pointer"] for error in response.json()["errors"]]


def test_a_curve_comes_in_columns() -> None:
    response = _post(ASKED)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == {
        "step": [0, 1, 2, 3, 4],
        "position": None,
        "lr": RATES,
        "momentum": None,
        "warnings": [],
    }


def test_json_and_columns_are_the_same() -> None:
    assert _post(ASKED, "columns").content == _post(ASKED, "json").content


def test_a_list_of_base_rates_gives_one_line_each() -> None:
    answer = _post({**ASKED, "base_lr": [0.1, 0.02]}).json()
    assert answer["lr"] == [RATES, [0.02, 0.02, 0.01, 0.01, 0.005]]


def test_a_list_of_one_base_rate_gives_a_list_of_one_line() -> None:
    assert _post({**ASKED, "base_lr": [0.1]}).json()["lr"] == [RATES]


def test_rows_name_their_values() -> None:
    rows = _post({**ASKED, "steps": 2}, "rows").json()
    assert rows == [{"step": 0, "lr": 0.1}, {"step": 1, "lr": 0.1}]
    rows = _post({**ASKED, "steps": 1, "base_lr": [0.1, 0.02]}, "rows").json()
    assert rows == [{"step": 0, "lr": [0.1, 0.02]}]


def test_csv_has_a_column_for_each_line() -> None:
    response = _post({**ASKED, "steps": 1}, "csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.text == "step,lr\n0,0.1\n"
    assert _post({**ASKED, "steps": 1, "base_lr": [1, 2]}, "csv").text == (
        "step,lr_0,lr_1\n0,1.0,2.0\n"
    )


def test_a_picture_is_an_svg() -> None:
    response = _post(ASKED, "svg")
    assert response.headers["Content-Type"] == "image/svg+xml"
    assert response.text.startswith("<svg")
    assert "step_size=2, gamma=0.5" in response.text


def test_every_form_carries_every_digit() -> None:
    body = {"scheduler": {"type": "CosineAnnealingLR", "T_max": 777}, "base_lr": 1 / 3}
    expected = Curve(schedule("CosineAnnealingLR", T_max=777), (1 / 3,), window(100))
    rates = next(expected.lrs()).tolist()
    assert _post(body).json()["lr"] == rates
    assert [row["lr"] for row in _post(body, "rows").json()] == rates
    table = csv.DictReader(io.StringIO(_post(body, "csv").text))
    assert [float(row["lr"]) for row in table] == rates


@pytest.mark.parametrize("form", ["json", "rows", "csv"])
def test_a_streamed_curve_reads_like_its_parts(form: str) -> None:
    steps = WHOLE // 2 + 2
    whole = {**ASKED, "base_lr": [0.1, 0.02], "steps": steps}
    end = {**whole, "start": steps - 3, "steps": 3}
    streamed, part = _post(whole, form), _post(end, form)
    assert "Content-Length" not in streamed.headers
    if form == "csv":
        assert streamed.text.splitlines()[-3:] == part.text.splitlines()[-3:]
        assert streamed.text.splitlines()[0] == part.text.splitlines()[0]
        assert len(streamed.text.splitlines()) == steps + 1
    elif form == "rows":
        assert streamed.json()[-3:] == part.json()
        assert len(streamed.json()) == steps
    else:
        columns = streamed.json()
        assert columns["step"] == list(range(steps))
        assert [line[-3:] for line in columns["lr"]] == part.json()["lr"]


@pytest.mark.parametrize("form", ["json", "rows", "csv"])
def test_a_long_curve_never_is_in_memory_at_once(form: CurveFormat) -> None:
    curve = Curve(schedule("StepLR", step_size=3), (0.1,), window(400_000))

    async def size_and_peak() -> tuple[int, int]:
        response = await respond(Drawing(curve, form, grouped=False, title=""))
        assert isinstance(response, StreamingResponse)
        size = 0
        tracemalloc.start()
        async for piece in response.body_iterator:
            size += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, peak

    size, peak = asyncio.run(size_and_peak())
    assert size > 4_000_000
    assert peak < 25_000_000


def test_last_epoch_start_and_stride_choose_the_points() -> None:
    answer = _post({**ASKED, "last_epoch": 9, "start": 5, "stride": 3, "steps": 8}).json()
    assert answer["step"] == [15, 18, 21]


def test_max_points_keeps_the_ends_and_the_jumps() -> None:
    body = {"scheduler": {"type": "StepLR", "step_size": 5_000}, "base_lr": 1, "steps": 10_000}
    answer = _post({**body, "max_points": 8}).json()
    assert len(answer["step"]) <= 8
    assert {0, 4_999, 5_000, 9_999} <= set(answer["step"])


def test_steps_far_away_are_exact() -> None:
    answer = _post({**ASKED, "start": 2**53 - 5}).json()
    assert answer["step"][-1] == 2**53 - 1


def test_what_is_worth_knowing_stands_in_the_warnings() -> None:
    body = {"scheduler": {"type": "CosineAnnealingLR", "T_max": 10}, "base_lr": 1, "steps": 20}
    (warning,) = _post(body).json()["warnings"]
    assert "T_max" in warning


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"steps": 0}, "/steps"),
        ({"steps": True}, "/steps"),
        ({"steps": 101}, "/steps"),
        ({"base_lr": [1] * 51, "steps": 2}, "/steps"),
        ({"start": 2**53 - 1, "steps": 2}, "/steps"),
        ({"stride": 0}, "/stride"),
        ({"max_points": 3}, "/max_points"),
        ({"last_epoch": -2}, "/last_epoch"),
        ({"base_lr": -1}, "/base_lr"),
        ({"base_lr": []}, "/base_lr"),
        ({"color": "red"}, "/color"),
        ({"scheduler": {"type": "ExponentialLR", "gamma": 1e200}}, ""),
    ],
)
def test_a_wrong_request_names_the_field(change: dict[str, Any], pointer: str) -> None:
    assert _places(_post({**ASKED, **change}, max_points=100)) == [pointer]


def test_a_rate_that_overflows_late_in_a_long_curve_is_no_broken_stream() -> None:
    growing = {"type": "ExponentialLR", "gamma": 1.0078}
    response = _post({"scheduler": growing, "base_lr": 1, "steps": WHOLE + 1})
    assert response.status_code == 422
    assert "too large" in response.json()["detail"]


def test_a_url_gives_the_same_curve_as_a_body() -> None:
    assert client().get(URL).content == _post(ASKED).content


def test_a_curve_from_a_url_may_be_kept_for_ever() -> None:
    first = client().get(URL)
    assert first.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    again = client().get(URL, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]


def test_two_ways_to_ask_for_one_curve_share_an_etag() -> None:
    spec = json.dumps({"step_size": 2, "gamma": 0.5})
    other = client().get(
        "/v1/schedules/StepLR", params={"spec": spec, "base_lr": "1e-1", "steps": "5"}
    )
    assert other.headers["ETag"] == client().get(URL).headers["ETag"]


@pytest.mark.parametrize("change", ["&start=1", "&format=csv", "&max_points=4"])
def test_another_curve_has_another_etag(change: str) -> None:
    assert client().get(URL + change).headers["ETag"] != client().get(URL).headers["ETag"]


@pytest.mark.parametrize("query", ["format=png", "format=", "format=csv&format=csv"])
def test_a_url_that_asks_for_no_form_there_is_names_those_there_are(query: str) -> None:
    response = client().get(f"{URL}&{query}")
    assert _places(response) == ["/query/format"]
    assert "json, columns, rows, csv, svg" in response.json()["detail"]


def test_a_long_curve_that_is_not_streamed_has_a_length() -> None:
    response = _post({**ASKED, "steps": WHOLE})
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert len(response.json()["lr"]) == WHOLE


@pytest.mark.parametrize("form", ["rows", "csv"])
def test_rows_are_whole_where_one_chunk_ends_and_the_next_begins(form: str) -> None:
    scheduler = {"type": "LinearLR", "total_iters": 2**20}
    body = {"scheduler": scheduler, "base_lr": [1, 0.5], "steps": CHUNK + 1}
    text = _post(body, form).text
    if form == "rows":
        assert [row["step"] for row in json.loads(text)] == list(range(CHUNK + 1))
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [int(row["step"]) for row in rows] == list(range(CHUNK + 1))
        assert all(float(row["lr_0"]) == 2 * float(row["lr_1"]) for row in rows)


def test_a_url_that_overflows_is_refused_before_the_cache_is_asked() -> None:
    url = "/v1/schedules/ExponentialLR?base_lr=1&gamma=1e200"
    response = client().get(url)
    assert _places(response) == ["/query"]
    assert "ETag" not in response.headers


def test_a_captions_composite_names_what_it_holds() -> None:
    cosine = {"type": "CosineAnnealingLR", "T_max": 5}
    both = schedule("SequentialLR", schedulers=[STEP, cosine], milestones=[3])
    assert caption(both) == "schedulers=[StepLR, CosineAnnealingLR], milestones=[3]"
