"""Every scheduler class, by what it says of itself: its examples, rejects and schema."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from torch_schedules import SCHEDULER

import gradstep_server.schedulers
from gradstep_server.kinds import Reject
from gradstep_server.schedulers import SCHEDULERS, Schedule, Scheduler

KINDS = pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
EXAMPLES = [
    {"type": name, **params} for name, kind in SCHEDULERS.items() for params in kind.examples
]
REJECTS = [
    pytest.param(kind, reject, id=f"{name}-{reject.field}-{number}")
    for name, kind in SCHEDULERS.items()
    for number, reject in enumerate(kind.rejects)
]


class Body(BaseModel):
    """The union in a field, as requests hold it."""

    scheduler: Scheduler


def concrete(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from concrete(kind)


def test_the_union_holds_every_concrete_class() -> None:
    package = gradstep_server.schedulers
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    assert set(concrete(Schedule)) == set(SCHEDULERS.values())


@KINDS
def test_a_kind_is_named_as_its_class_and_as_in_torch(kind: type[Schedule]) -> None:
    assert kind.kind_name() == kind.__name__
    assert kind.torch_name == f"torch.optim.lr_scheduler.{kind.__name__}"


@KINDS
def test_a_kind_explains_itself(kind: type[Schedule]) -> None:
    assert kind.summary().endswith(".")
    assert r"\eta" in kind.formula
    for name, field in kind.model_fields.items():
        assert name == "type" or (field.description or "").endswith(".")


@pytest.mark.parametrize("params", EXAMPLES, ids=str)
def test_an_example_works_and_survives_json(params: dict[str, Any]) -> None:
    schedule = SCHEDULER.validate_python(params)
    assert type(schedule) is SCHEDULERS[params["type"]]
    rates = schedule.lrs(np.arange(300), 0.1)
    assert rates.shape == (300,)
    assert rates.dtype == np.float64
    assert (rates >= 0).all()
    assert SCHEDULER.validate_json(schedule.model_dump_json()) == schedule


@pytest.mark.parametrize(("kind", "reject"), REJECTS)
def test_a_reject_is_refused_by_the_name_of_its_field(kind: type[Schedule], reject: Reject) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"scheduler": {"type": kind.kind_name(), **reject.params}})
    locations = [error["loc"] for error in caught.value.errors()]
    assert any(loc[:3] == ("scheduler", kind.kind_name(), reject.field) for loc in locations)


@pytest.mark.parametrize("given", ["Unknown", "steplr", None, 3])
def test_an_unknown_type_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"scheduler": {"type": given}})
    assert [error["type"] for error in caught.value.errors()] == ["union_tag_invalid"]


def test_a_missing_type_is_refused() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"scheduler": {"gamma": 0.1}})
    assert [error["type"] for error in caught.value.errors()] == ["union_tag_not_found"]


def test_an_error_in_a_nested_scheduler_says_where_it_is() -> None:
    params = {
        "type": "SequentialLR",
        "schedulers": [{"type": "LinearLR"}, {"type": "StepLR", "step_size": 0}],
        "milestones": [5],
    }
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"scheduler": params})
    (error,) = caught.value.errors()
    assert error["loc"] == ("scheduler", "SequentialLR", "schedulers", 1, "StepLR", "step_size")


def test_the_schema_requires_the_type_and_selects_by_it_at_every_depth() -> None:
    schema = Body.model_json_schema()
    definitions = schema["$defs"]
    for name in SCHEDULERS:
        assert "type" in definitions[name]["required"]
    outer = schema["properties"]["scheduler"]
    inner = definitions["SequentialLR"]["properties"]["schedulers"]["items"]
    for place in (outer, inner):
        assert place["discriminator"]["propertyName"] == "type"
        assert set(place["discriminator"]["mapping"]) == set(SCHEDULERS)


def test_a_schedule_cannot_be_changed() -> None:
    schedule = SCHEDULER.validate_python({"type": "StepLR", "step_size": 3})
    with pytest.raises(ValidationError):
        schedule.gamma = 0.5  # type: ignore[attr-defined] # the base class has no gamma
