"""Every scheduler and optimizer class, held to what it says of itself."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import gradstep_server.optimizers
import gradstep_server.schedulers
from gradstep_server.kinds import Kind, Reject
from gradstep_server.optimizers import OPTIMIZERS, AnyOptimizer, Optimizer
from gradstep_server.schedulers import SCHEDULERS, Schedule, Scheduler


class SchedulerBody(BaseModel):
    """The union in a field, as requests hold it."""

    kind: Scheduler


class OptimizerBody(BaseModel):
    """The union in a field, as requests hold it."""

    kind: AnyOptimizer


class Family(NamedTuple):
    """A registry, and all that is known of what it registers."""

    base: type[Kind]
    kinds: dict[str, Any]
    body: type[BaseModel]
    package: ModuleType
    torch_packages: tuple[str, ...]
    symbol: str


FAMILIES = {
    "schedulers": Family(
        Schedule,
        SCHEDULERS,
        SchedulerBody,
        gradstep_server.schedulers,
        ("torch.optim.lr_scheduler", "torch.optim.swa_utils"),
        r"\eta",
    ),
    "optimizers": Family(
        Optimizer,
        OPTIMIZERS,
        OptimizerBody,
        gradstep_server.optimizers,
        ("torch.optim",),
        r"\theta",
    ),
}
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
EACH_KIND = pytest.mark.parametrize(
    ("family", "kind"),
    [
        pytest.param(family, kind, id=name)
        for family in FAMILIES.values()
        for name, kind in family.kinds.items()
    ],
)
EACH_EXAMPLE = pytest.mark.parametrize(
    ("family", "params"),
    [
        pytest.param(family, {"type": name, **params}, id=f"{name}-{number}")
        for family in FAMILIES.values()
        for name, kind in family.kinds.items()
        for number, params in enumerate(kind.examples)
    ],
)
EACH_REJECT = pytest.mark.parametrize(
    ("family", "name", "reject"),
    [
        pytest.param(family, name, reject, id=f"{name}-{reject.field}-{number}")
        for family in FAMILIES.values()
        for name, kind in family.kinds.items()
        for number, reject in enumerate(kind.rejects)
    ],
)


def concrete(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind):
            yield kind
        yield from concrete(kind)


@EACH_FAMILY
def test_the_union_holds_every_concrete_class(family: Family) -> None:
    for module in pkgutil.iter_modules(family.package.__path__, f"{family.package.__name__}."):
        importlib.import_module(module.name)
    assert set(concrete(family.base)) == set(family.kinds.values())


@EACH_KIND
def test_a_kind_is_named_as_its_class_and_as_in_torch(family: Family, kind: type[Kind]) -> None:
    assert kind.kind_name() == kind.__name__
    if not kind.torch_name:
        return
    assert not kind.reference
    module, _, name = kind.torch_name.rpartition(".")
    assert module in family.torch_packages
    assert name == kind.__name__
    assert hasattr(importlib.import_module(module), name)


@EACH_KIND
def test_a_kind_explains_itself(family: Family, kind: type[Kind]) -> None:
    assert kind.summary().endswith(".")
    assert family.symbol in kind.formula
    for name, field in kind.model_fields.items():
        assert name == "type" or (field.description or "").endswith(".")


@EACH_EXAMPLE
def test_an_example_survives_json(family: Family, params: dict[str, Any]) -> None:
    adapter = TypeAdapter(family.body)
    body = adapter.validate_python({"kind": params})
    assert type(getattr(body, "kind", None)) is family.kinds[params["type"]]
    assert adapter.validate_json(body.model_dump_json()) == body


@EACH_REJECT
def test_a_reject_is_refused_by_the_name_of_its_field(
    family: Family, name: str, reject: Reject
) -> None:
    with pytest.raises(ValidationError) as caught:
        family.body.model_validate({"kind": {"type": name, **reject.params}})
    locations = [error["loc"] for error in caught.value.errors()]
    assert any(loc[:3] == ("kind", name, reject.field) for loc in locations)


@EACH_FAMILY
@pytest.mark.parametrize("given", ["Unknown", "steplr", "adamw", None, 3])
def test_an_unknown_type_is_refused(family: Family, given: object) -> None:
    with pytest.raises(ValidationError) as caught:
        family.body.model_validate({"kind": {"type": given}})
    assert [error["type"] for error in caught.value.errors()] == ["union_tag_invalid"]


@EACH_FAMILY
def test_a_missing_type_is_refused(family: Family) -> None:
    with pytest.raises(ValidationError) as caught:
        family.body.model_validate({"kind": {"lr": 0.1}})
    assert [error["type"] for error in caught.value.errors()] == ["union_tag_not_found"]


@EACH_FAMILY
def test_the_schema_requires_the_type_and_selects_by_it(family: Family) -> None:
    schema = family.body.model_json_schema()
    for name in family.kinds:
        assert "type" in schema["$defs"][name]["required"]
    discriminator = schema["properties"]["kind"]["discriminator"]
    assert discriminator["propertyName"] == "type"
    assert set(discriminator["mapping"]) == set(family.kinds)


@EACH_EXAMPLE
def test_a_kind_cannot_be_changed(family: Family, params: dict[str, Any]) -> None:
    kind = TypeAdapter(family.kinds[params["type"]]).validate_python(params)
    with pytest.raises(ValidationError):
        kind.type = "Other"
