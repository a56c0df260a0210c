"""A parameter in words: its type and its limits, read off its JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from gradstep_server.kinds import MAX_COUNT

_TYPES = {
    "boolean": "true or false",
    "integer": "integer",
    "null": "null",
    "number": "number",
    "string": "text",
}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
}


def table(schema: Mapping[str, Any]) -> str:
    """Return the table of a kind's parameters, as Markdown; empty if it has none.

    Args:
        schema: the JSON schema of the kind.
    """
    fields = {name: field for name, field in schema["properties"].items() if name != "type"}
    if not fields:
        return ""
    # What must be given comes first.
    names = sorted(fields, key=lambda name: name not in schema["required"])
    rows = [_row(name, fields[name], required=name in schema["required"]) for name in names]
    return "\n".join(
        ["| Parameter | Type | Default | Limits | Meaning |", "|---|---|---|---|---|", *rows]
    )


def _row(name: str, field: Mapping[str, Any], *, required: bool) -> str:
    default = "required" if required else f"`{orjson.dumps(field.get('default')).decode()}`"
    meaning = " ".join(field.get("description", "").split())
    cells = [f"`{name}`", words(field), default, ", ".join(limits(field)), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def words(field: Mapping[str, Any]) -> str:
    """Return a parameter's type in words."""
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(map(words, field["anyOf"]))
    if "oneOf" in field:
        return "[scheduler](../README.md#schedulers)"
    if "prefixItems" in field:
        return "[" + ", ".join(map(words, field["prefixItems"])) + "]"
    if "items" in field:
        plural = "" if "prefixItems" in field["items"] else "s"
        return f"list of {words(field['items'])}{plural}"
    return _TYPES[field["type"]]


def limits(field: Mapping[str, Any]) -> list[str]:
    """Return what a parameter's values, or those in it, must be: ``≥ 0``, ``< 1``."""
    return list(dict.fromkeys(_limits(field)))


def _limits(field: Mapping[str, Any]) -> Iterator[str]:
    # A pair says in its type how long it is.
    bounds = {} if "prefixItems" in field else field
    for name, text in _BOUNDS.items():
        # No count is larger: the index says so, once for all of them.
        if name in bounds and bounds[name] != MAX_COUNT:
            yield text.format(f"{bounds[name]:,}")
    inner = [*field.get("anyOf", ()), *field.get("prefixItems", ())]
    if "oneOf" not in field.get("items", {"oneOf": ()}):
        inner.append(field["items"])
    for part in inner:
        yield from _limits(part)
