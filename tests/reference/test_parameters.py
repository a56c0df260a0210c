"""Parameters in words."""

from __future__ import annotations

from typing import Any

import pytest

from gradstep_server.kinds import MAX_COUNT
from gradstep_server.reference.parameters import limits, table, words
from gradstep_server.schedulers import SCHEDULERS

COUNT = {"type": "integer", "minimum": 1, "maximum": MAX_COUNT}
SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}


@pytest.mark.parametrize(
    ("field", "said", "limited"),
    [
        (COUNT, "integer", ["≥ 1"]),
        (SHARE, "number", ["≥ 0", "< 1"]),
        ({"type": "boolean"}, "true or false", []),
        ({"type": "string", "enum": ["min", "max"]}, "`min` or `max`", []),
        ({"anyOf": [COUNT, {"type": "null"}]}, "integer or null", ["≥ 1"]),
        ({"type": "array", "items": COUNT}, "list of integers", ["≥ 1"]),
        (
            {"type": "array", "items": COUNT, "maxItems": 9},
            "list of integers",
            ["at most 9 of them", "≥ 1"],
        ),
        (
            {"type": "array", "prefixItems": [COUNT, SHARE], "minItems": 2, "maxItems": 2},
            "[integer, number]",
            ["≥ 1", "≥ 0", "< 1"],
        ),
    ],
)
def test_a_type_and_its_limits_are_read_off_the_schema(
    field: dict[str, Any], said: str, limited: list[str]
) -> None:
    assert (words(field), limits(field)) == (said, limited)


def test_schedulers_in_a_composite_are_a_link() -> None:
    field = SCHEDULERS["SequentialLR"].model_json_schema()["$defs"]["SequentialLR"]["properties"]
    assert words(field["schedulers"]) == "list of [scheduler](../README.md#schedulers)s"
    assert limits(field["schedulers"]) == ["at least 1 of them"]


def test_what_must_be_given_stands_first_and_a_bar_does_not_end_a_cell() -> None:
    schema = {
        "properties": {
            "type": {"const": "A"},
            "free": {"type": "number", "default": 0.5, "description": "One\n| two."},
            "bound": COUNT,
        },
        "required": ["type", "bound"],
    }
    _, _, bound, free = table(schema).splitlines()
    assert bound == "| `bound` | integer | required | ≥ 1 |  |"
    assert free == r"| `free` | number | `0.5` |  | One \| two. |"


def test_a_kind_without_parameters_has_no_table() -> None:
    assert table({"properties": {"type": {"const": "A"}}, "required": ["type"]}) == ""
