"""What a *kind* is: a scheduler or an optimizer, defined once, by its class.

A kind's class holds everything that the project knows of it: its fields with
their limits, its formula, its name in torch, examples that work and examples
that must be refused. The discriminated union of the classes is the registry;
validation, the OpenAPI schema, the catalogue and the parametrised tests are
computed from it. This module knows pydantic and nothing else of the project.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number. JSON integers are welcome; ``true`` and ``"0.1"`` are not."""

NonNegative = Annotated[Real, Field(ge=0)]
"""A finite number that is at least 0."""

Positive = Annotated[Real, Field(gt=0)]
"""A finite number above 0."""

Fraction = Annotated[Real, Field(ge=0, lt=1)]
"""A number in [0, 1): a decay rate such as a beta or a dampening."""

Flag = Annotated[bool, Strict()]
"""``true`` or ``false``; nothing else stands for either."""

MAX_COUNT = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""

Count = Annotated[int, Strict(), Field(ge=0, le=MAX_COUNT)]
"""A whole number of steps or epochs, 0 included."""

PositiveCount = Annotated[int, Strict(), Field(ge=1, le=MAX_COUNT)]
"""A whole number of steps or epochs, at least 1."""


def _number_or_list(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "number"


NUMBER_OR_LIST = Discriminator(_number_or_list)
"""Selects the branch tagged ``number`` or ``list``, so that an error names the shape
that was sent, not every shape that would have been welcome."""


@dataclass(frozen=True)
class Reject:
    """Parameters that a kind must refuse, and the field that the error must name."""

    params: Mapping[str, Any]
    field: str


class Kind(BaseModel):
    """The base of every scheduler and optimizer class.

    A subclass declares ``type: Literal["Name"] = "Name"``, its parameters as
    fields with attribute docstrings, and the class variables below.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    formula: ClassVar[str]
    """The rule in LaTeX, in the symbols of its source."""

    torch_name: ClassVar[str]
    """The class in torch whose numbers these are; empty where torch has none."""

    reference: ClassVar[str] = ""
    """What else has these numbers, where torch does not: a function of another library."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]]
    """Parameters that work, the first one the most typical; ``type`` left out."""

    rejects: ClassVar[tuple[Reject, ...]]
    """Parameters that must be refused."""

    @classmethod
    def kind_name(cls) -> str:
        """The value of ``type`` that selects this class."""
        return str(cls.model_fields["type"].default)

    @classmethod
    def summary(cls) -> str:
        """The first line of the class's docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Require ``type``: a defaulted discriminator drops out of ``required``."""
        json_schema = handler.resolve_ref_schema(handler(schema))
        required = json_schema.setdefault("required", [])
        if "type" not in required:
            required.insert(0, "type")
        return json_schema


@dataclass(frozen=True)
class TaggedUnion:
    """An annotation that validates a value by the class that its ``type`` names.

    ``Annotated[Base, TaggedUnion(members)]`` is the union of ``members()``. The
    members come from a callable because a composite kind holds the union that
    it belongs to. pydantic's own ``Field(discriminator=…)`` loses the
    discriminator inside a recursive named union, and tries every member
    instead; this schema keeps it at every depth.
    """

    members: Callable[[], tuple[type[Kind], ...]]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        choices = {kind.kind_name(): handler.generate_schema(kind) for kind in self.members()}
        return core_schema.tagged_union_schema(choices, discriminator="type")
