"""The catalogue of kinds: ``/v1/schedulers`` and ``/v1/optimizers``, read off their classes."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from gradstep_server.kinds import Kind
from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.schedulers import SCHEDULERS, Schedule
from gradstep_server.web.errors import UnknownKind
from gradstep_server.web.problems import responses

MEASURED = tuple(round(max(0.3, 1 - i / 20), 2) for i in range(100))
"""What a training might measure: a value that falls for a while, and then no more."""


class KindEntry(BaseModel):
    """Everything that is known of a kind."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """The value of `type` that selects it."""

    summary: str
    """What it does, in one line."""

    description: str
    """What it does."""

    formula: str
    """Its rule, in LaTeX."""

    torch_name: str
    """The class in torch whose numbers these are; empty where torch has none."""

    reference: str
    """The function of another library whose numbers these are, where torch has none."""

    parameters: dict[str, Any]
    """The JSON schema of its parameters."""

    examples: list[dict[str, Any]]
    """Parameters that work, the first the most typical."""


class SchedulerEntry(KindEntry):
    """Everything that is known of a scheduler."""

    curve: str
    """The address of a picture of its first example."""


class SchedulerList(BaseModel):
    """All schedulers."""

    schedulers: list[SchedulerEntry]


class OptimizerList(BaseModel):
    """All optimizers."""

    optimizers: list[KindEntry]


@cache
def scheduler_entry(kind: type[Schedule]) -> SchedulerEntry:
    """Describe a scheduler."""
    return SchedulerEntry(**_facts(kind), curve=_curve(kind))


@cache
def kind_entry(kind: type[Kind]) -> KindEntry:
    """Describe an optimizer, or a kind of clipping."""
    return KindEntry(**_facts(kind))


def _facts(kind: type[Kind]) -> dict[str, Any]:
    name = kind.kind_name()
    return {
        "type": name,
        "summary": kind.summary(),
        "description": inspect.getdoc(kind) or "",
        "formula": kind.formula,
        "torch_name": kind.torch_name,
        "reference": kind.reference,
        "parameters": _schema(kind),
        "examples": [{"type": name, **example} for example in kind.examples],
    }


def _schema(kind: type[Kind]) -> dict[str, Any]:
    """Return the JSON schema, its properties at the top where pydantic only refers to them."""
    schema = kind.model_json_schema()
    if "$ref" in schema:
        schema = {**schema["$defs"][kind.__name__], "$defs": schema["$defs"]}
    return schema


def _curve(kind: type[Schedule]) -> str:
    """Return the address of a picture; lists of schedulers fit no query and go as JSON."""
    example = kind.examples[0]
    plain = all(_is_plain(value) for value in example.values())
    given = example if plain else {"spec": orjson.dumps(example).decode()}
    metrics = {"metrics": ",".join(f"{value:.2f}" for value in MEASURED)}
    query = urlencode(
        {
            "base_lr": 0.1,
            "steps": 100,
            "format": "svg",
            **given,
            **(metrics if kind.needs_metrics else {}),
        },
        doseq=True,
    )
    return f"/v1/schedules/{kind.kind_name()}?{query}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > 0 and not any(isinstance(item, dict | list | tuple) for item in value)
    return not isinstance(value, dict)


def _example(answer: BaseModel) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": answer.model_dump()}}}}


_SCHEDULER = scheduler_entry(next(iter(SCHEDULERS.values())))
_OPTIMIZER = kind_entry(next(iter(OPTIMIZERS.values())))

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get(
    "/schedulers",
    operation_id="listSchedulers",
    summary="List every scheduler with its parameters, formula and examples.",
    responses=_example(SchedulerList(schedulers=[_SCHEDULER])),
)
async def list_schedulers() -> SchedulerList:
    """Everything here is read off the classes that compute the curves."""
    return SchedulerList(schedulers=[scheduler_entry(kind) for kind in SCHEDULERS.values()])


@router.get(
    "/schedulers/{type}",
    operation_id="getScheduler",
    summary="Describe one scheduler.",
    responses={**_example(_SCHEDULER), **responses(UnknownKind)},
)
async def get_scheduler(type: str) -> SchedulerEntry:  # noqa: A002 - the parameter's name on the wire
    """The names are torch's, such as `CosineAnnealingLR`."""
    if type not in SCHEDULERS:
        raise UnknownKind(type, SCHEDULERS)
    return scheduler_entry(SCHEDULERS[type])


@router.get(
    "/optimizers",
    operation_id="listOptimizers",
    summary="List every optimizer with its hyperparameters, formula and examples.",
    responses=_example(OptimizerList(optimizers=[_OPTIMIZER])),
)
async def list_optimizers() -> OptimizerList:
    """Everything here is read off the classes that take the steps."""
    return OptimizerList(optimizers=[kind_entry(kind) for kind in OPTIMIZERS.values()])


@router.get(
    "/optimizers/{type}",
    operation_id="getOptimizer",
    summary="Describe one optimizer.",
    responses={**_example(_OPTIMIZER), **responses(UnknownKind)},
)
async def get_optimizer(type: str) -> KindEntry:  # noqa: A002 - the parameter's name on the wire
    """The names are torch's, such as `AdamW`."""
    if type not in OPTIMIZERS:
        raise UnknownKind(type, OPTIMIZERS)
    return kind_entry(OPTIMIZERS[type])
