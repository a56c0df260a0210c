"""From pydantic's errors to pointers into what was sent."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from gradstep_server.errors import Fault
from gradstep_server.schedulers import SCHEDULERS, Scheduler
from gradstep_server.web.curve_request import CurveRequest
from gradstep_server.web.pointers import MAX_FAULTS, faults, request_faults

CURVE = TypeAdapter(CurveRequest)
STEP = {"type": "StepLR", "step_size": 3}


def _faults(adapter: TypeAdapter[Any], data: object) -> list[Fault]:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(data)
    return faults(caught.value.errors(), data)


def _pointers(data: object) -> list[str]:
    return [fault.pointer for fault in _faults(CURVE, data)]


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"base_lr": 1}, "/scheduler"),
        ({"scheduler": 3, "base_lr": 1}, "/scheduler"),
        ({"scheduler": {}, "base_lr": 1}, "/scheduler/type"),
        ({"scheduler": {"type": "Step"}, "base_lr": 1}, "/scheduler/type"),
        ({"scheduler": {"type": 3}, "base_lr": 1}, "/scheduler/type"),
        ({"scheduler": {"type": "StepLR"}, "base_lr": 1}, "/scheduler/step_size"),
        ({"scheduler": {**STEP, "step_size": 0}, "base_lr": 1}, "/scheduler/step_size"),
        ({"scheduler": {**STEP, "a/b~": 0}, "base_lr": 1}, "/scheduler/a~1b~0"),
        ({"scheduler": STEP, "base_lr": "x"}, "/base_lr"),
        ({"scheduler": STEP, "base_lr": []}, "/base_lr"),
        ({"scheduler": STEP, "base_lr": [1, True]}, "/base_lr/1"),
        ({"scheduler": STEP, "base_lr": 1, "steps": 1.5}, "/steps"),
    ],
)
def test_a_pointer_leads_through_what_was_sent(data: dict[str, Any], pointer: str) -> None:
    assert _pointers(data) == [pointer]


def test_a_pointer_leads_into_composites_at_every_depth() -> None:
    inner = {"type": "SequentialLR", "schedulers": [{"type": "StepLR"}], "milestones": []}
    outer = {"type": "SequentialLR", "schedulers": [STEP, inner], "milestones": [3]}
    assert _pointers({"scheduler": outer, "base_lr": 1}) == [
        "/scheduler/schedulers/1/schedulers/0/step_size"
    ]


def test_a_pointer_names_a_field_that_clashes_with_another() -> None:
    composite = {"type": "SequentialLR", "schedulers": [STEP], "milestones": [3]}
    assert _pointers({"scheduler": composite, "base_lr": 1}) == ["/scheduler/milestones"]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_reject_of_every_kind_is_found_in_the_data(name: str) -> None:
    scheduler: TypeAdapter[Any] = TypeAdapter(Scheduler)
    for reject in SCHEDULERS[name].rejects:
        found = _faults(scheduler, {"type": name, **reject.params})
        places = [fault.pointer for fault in found]
        clear = [p for p in places if p.startswith(f"/{reject.field}")]
        unknown = [p for p in places if p.removeprefix("/") in reject.params]
        assert clear or unknown, (reject, places)


def test_a_class_as_a_whole_is_no_place_in_the_data() -> None:
    class Clash(BaseModel):
        type: Literal["Clash"]

        @model_validator(mode="after")
        def _always(self) -> Clash:
            raise ValueError("never fits")

    class Holder(BaseModel):
        one: Clash

    found = _faults(TypeAdapter(Holder), {"one": {"type": "Clash"}})
    assert found == [Fault("/one", "never fits")]


@pytest.mark.parametrize(
    ("value", "echo"),
    [(True, "true"), (None, "null"), ("x", "'x'"), (-3, "-3"), (1.5, "1.5")],
)
def test_a_short_value_is_repeated_as_json_writes_it(value: object, echo: str) -> None:
    (fault,) = _faults(CURVE, {"scheduler": STEP, "base_lr": 1, "start": value})
    assert fault.detail.endswith(f"got {echo}")


def test_a_long_value_is_not_repeated() -> None:
    (fault,) = _faults(CURVE, {"scheduler": STEP, "base_lr": 1, "start": "x" * 100})
    assert "got" not in fault.detail


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        ({"base_lr": 1, "scheduler": STEP, "stepz": 3}, "there is no field of this name"),
        ({"scheduler": STEP}, "this field is required"),
        ({"base_lr": 1, "scheduler": {}}, "it says which kind is meant"),
        ({"base_lr": 1, "scheduler": {"type": "Step"}}, "use one of 'StepLR', "),
        ({"base_lr": 1, "scheduler": 3}, "input should be an object, got 3"),
    ],
)
def test_a_sentence_says_what_would_be_right(data: dict[str, Any], detail: str) -> None:
    (fault,) = _faults(CURVE, data)
    assert detail in fault.detail


def test_an_array_is_asked_for_by_its_json_name() -> None:
    many = {"type": "MultiStepLR", "milestones": 3}
    (fault,) = _faults(CURVE, {"scheduler": many, "base_lr": 1})
    assert fault == Fault("/scheduler/milestones", "input should be an array, got 3")


def test_values_outside_the_body_say_where_they_came_from() -> None:
    errors: list[dict[str, Any]] = [
        {"type": "int_parsing", "loc": ("query", "limit"), "msg": "Not a number.", "input": "x"},
        {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None},
    ]
    query, body = request_faults(errors, None)
    assert query == Fault("/query/limit", "not a number, got 'x'")
    assert body == Fault("", "a JSON body is required, and none was sent")


def test_names_and_numbers_of_places_are_bounded() -> None:
    class Empty(BaseModel):
        model_config = ConfigDict(extra="forbid")

    found = _faults(TypeAdapter(Empty), {f"{i}-{'x' * 10_000}": 1 for i in range(100)})
    assert len(found) == MAX_FAULTS
    assert all(len(fault.pointer) < 200 for fault in found)
