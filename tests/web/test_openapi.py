"""The OpenAPI document."""

from __future__ import annotations

from typing import Any

import pytest
from stateless_app import client

from gradstep_server.schedulers import SCHEDULERS

DOCUMENT: dict[str, Any] = client().get("/openapi.json").json()
OPERATIONS: dict[str, dict[str, Any]] = {
    operation["operationId"]: operation
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
}


def test_operations_keep_their_names() -> None:
    assert set(OPERATIONS) == {
        "createCurve",
        "getCurve",
        "listSchedulers",
        "getScheduler",
        "listOptimizers",
        "getOptimizer",
        "backpropLinear",
        "getLiveness",
        "getReadiness",
        "getMetrics",
        "getVersion",
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_sentence(name: str) -> None:
    assert OPERATIONS[name]["summary"].endswith(".")


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_failure_is_declared_as_a_problem(name: str) -> None:
    for status, response in OPERATIONS[name]["responses"].items():
        if int(status) >= 400:
            assert response["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
            assert response["description"].startswith("`")


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_shows_an_example_of_its_answer(name: str) -> None:
    forms = OPERATIONS[name]["responses"]["200"]["content"]
    if "application/json" not in forms:
        assert all("example" in form for form in forms.values())
        return
    content = forms["application/json"]
    first, *_ = content["schema"].get("anyOf", [content["schema"]])
    model = first["$ref"].rpartition("/")[2]
    schema = DOCUMENT["components"]["schemas"][model]
    fields = schema["properties"].values()
    assert "example" in content or "examples" in schema or all("examples" in f for f in fields)


def test_the_answer_shown_for_backprop_is_the_answer_to_the_request_shown() -> None:
    models = DOCUMENT["components"]["schemas"]
    (asked,), (shown,) = models["LinearRequest"]["examples"], models["LinearAnswer"]["examples"]
    assert client().post("/v1/backprop/linear", json=asked).json() == shown


def test_the_query_of_a_curve_is_declared() -> None:
    parameters = {p["name"]: p for p in OPERATIONS["getCurve"]["parameters"]}
    assert parameters["base_lr"]["required"]
    assert parameters["steps"]["schema"]["default"] == 100
    assert parameters["format"]["schema"]["enum"] == ["json", "columns", "rows", "csv", "svg"]
    assert parameters["parameters"]["explode"] is True
    assert all(p["description"] for p in parameters.values() if p["in"] == "query")


def test_a_scheduler_is_a_union_told_apart_by_its_type() -> None:
    scheduler = DOCUMENT["components"]["schemas"]["CurveRequest"]["properties"]["scheduler"]
    assert scheduler["discriminator"]["propertyName"] == "type"
    assert set(scheduler["discriminator"]["mapping"]) == set(SCHEDULERS)


def test_every_model_is_referred_to() -> None:
    text = client().get("/openapi.json").text
    models = DOCUMENT["components"]["schemas"]
    assert [name for name in models if f"#/components/schemas/{name}" not in text] == []
    assert "HTTPValidationError" not in text


def test_bodies_carry_an_example_that_works() -> None:
    http = client()
    for path, model in [
        ("/v1/schedules", "CurveRequest"),
        ("/v1/backprop/linear", "LinearRequest"),
    ]:
        for example in DOCUMENT["components"]["schemas"][model]["examples"]:
            assert http.post(path, json=example).status_code == 200
