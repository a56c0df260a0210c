"""Answers that the OpenAPI document once left out: found by `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from session_app import ADAMW, SAFETENSORS, Service, f32, file, running

from gradstep_server.web.curve_request import CurvePoint


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running() as started:
        yield started


def declared(service: Service, method: str, path: str, answer: httpx.Response) -> dict[str, Any]:
    """Return what the document says of an answer; raise KeyError where it says nothing."""
    responses = service.app.openapi()["paths"][path][method]["responses"]
    media = answer.headers["Content-Type"].partition(";")[0]
    content: dict[str, Any] = responses[str(answer.status_code)]["content"][media]
    return content


@pytest.mark.parametrize("form", ["json", "columns", "rows", "csv", "svg"])
@pytest.mark.parametrize("of", ["session", "kind"])
def test_every_form_of_a_curve_is_declared(service: Service, form: str, of: str) -> None:
    session = service.session(f"{form}-{of}", optimizer=ADAMW)
    url, path = {
        "session": (f"{session}/schedule?", "/v1/sessions/{id}/schedule"),
        "kind": ("/v1/schedules/StepLR?step_size=2&base_lr=1&", "/v1/schedules/{type}"),
    }[of]
    answer = service.get(f"{url}steps=4&format={form}")
    assert answer.status_code == 200
    schema = declared(service, "get", path, answer)["schema"]
    if form in ("csv", "svg"):
        assert schema == {"type": "string"}
        return
    # Columns are an object and rows are an array: the document has to allow both.
    [allowed] = [
        option
        for option in schema["anyOf"]
        if (option.get("type") == "array") is isinstance(answer.json(), list)
    ]
    assert str(allowed).count("CurvePoint") == (form == "rows")


@pytest.mark.parametrize(
    "query",
    [
        "OneCycleLR?total_steps=10&max_lr=1&base_lr=0.1",
        "StepLR?step_size=2&base_lr=1&base_lr=2",
        "StepLR?step_size=2&base_lr=1&unit=epoch&steps_per_epoch=4&steps=2",
    ],
)
def test_rows_are_points_as_declared(service: Service, query: str) -> None:
    answer = service.get(f"/v1/schedules/{query}&format=rows")
    assert answer.status_code == 200, answer.text
    points = TypeAdapter(list[CurvePoint]).validate_python(answer.json(), strict=True)
    assert [point.model_dump(exclude_unset=True) for point in points] == answer.json()


def test_initial_parameters_and_a_state_sent_again_are_declared(service: Service) -> None:
    first, second = service.session("a", optimizer=ADAMW), service.session("b", optimizer=ADAMW)
    for status in (201, 200):
        put = service.put(f"{first}/params", content=file({"w": f32(1, 2)}), headers=SAFETENSORS)
        assert put.status_code == status, put.text
        declared(service, "put", "/v1/sessions/{id}/params", put)
    state = service.get(f"{first}/state").content
    for status in (201, 200):
        put = service.put(f"{second}/state", content=state, headers=SAFETENSORS)
        assert put.status_code == status, put.text
        declared(service, "put", "/v1/sessions/{id}/state", put)
