"""From pydantic's errors to faults: a JSON pointer into what was sent, and a sentence.

pydantic's ``loc`` names branches of unions (``StepLR``, ``list[number]``) that
are in the schema but not in the data. A pointer must lead through the data, so
each ``loc`` is walked along the body and what is not there is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from gradstep_server.errors import Fault, pointer

MAX_FAULTS = 20
"""More than this many wrong places in one request help nobody."""

_MAX_ECHO = 40
_MAX_NAME = 128


def faults(errors: Sequence[Mapping[str, Any]], data: object) -> list[Fault]:
    """Translate pydantic's errors about `data`; their ``loc`` starts inside it."""
    return [_fault(error, tuple(error["loc"]), data) for error in _own(errors)]


def request_faults(errors: Sequence[Mapping[str, Any]], body: object) -> list[Fault]:
    """Translate FastAPI's errors, whose ``loc`` starts with where the value came from.

    A fault in the body points into the body; one elsewhere is ``/query/steps``,
    ``/path/n`` or ``/header/…``.
    """
    found = []
    for error in _own(errors):
        source, *loc = error["loc"]
        if source != "body":
            found.append(Fault(_pointer([source, *loc]), _sentence(error)))
        elif not loc and error["type"] == "missing":
            found.append(Fault("", "a JSON body is required, and none was sent"))
        else:
            found.append(_fault(error, tuple(loc), body))
    return found


def clause(text: str) -> str:
    """Write a sentence of pydantic, or of a lower layer, as a detail: lowercase, no full stop."""
    return text[:1].lower() + text[1:].removesuffix(".")


def _own(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first errors that are no mere consequence of others.

    To pydantic, a list whose items are wrong is also too short: none is left.
    """
    own = (
        error
        for error in errors
        if error["type"] != "too_short" or len(error["input"]) < error["ctx"]["min_length"]
    )
    return list(islice(own, MAX_FAULTS))


def _pointer(path: Sequence[str | int]) -> str:
    """Write a path, cutting off what no field is named: an answer must stay small."""
    return pointer(*(part[:_MAX_NAME] if isinstance(part, str) else part for part in path))


def _fault(error: Mapping[str, Any], loc: tuple[str | int, ...], data: object) -> Fault:
    path = _walk(loc, data)
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        path = [*path, str(error["ctx"]["discriminator"]).strip("'")]
    return Fault(_pointer(path), _sentence(error))


def _walk(loc: tuple[str | int, ...], data: object) -> list[str | int]:
    """Return the parts of `loc` that lead through `data`, without union branches."""
    path: list[str | int] = []
    tagged: object = None
    for depth, part in enumerate(loc):
        inside = depth < len(loc) - 1
        if inside and tagged is not data and isinstance(data, dict) and part == data.get("type"):
            tagged = data  # the branch is named first, and may be named like a field
        elif _holds(data, part):
            path.append(part)
            data = data[part]  # type: ignore[index] # _holds has looked
        elif not inside and isinstance(data, dict) and (tagged is data or part != data.get("type")):
            # A field that is missing, or whose default clashes with another field.
            path.append(part)
    return path


def _holds(data: object, part: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data


def _sentence(error: Mapping[str, Any]) -> str:
    """Say what is wrong, and what came where it is short enough to repeat."""
    match error["type"]:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return "there is no field of this name"
        case "union_tag_not_found":
            return "this field is required: it says which kind is meant"
        case "union_tag_invalid":
            tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"]
            return f"{tag[:64]!r} is not known; use one of {known}"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "input should be an object"
        case "list_type" | "tuple_type":
            message = "input should be an array"
        case _:
            message = clause(str(error["msg"]).removeprefix("Value error, "))
    given = error.get("input")
    if given is None or isinstance(given, bool | int | float | str):
        echo = repr(given)
        if len(echo) <= _MAX_ECHO:
            return f"{message}, got {_as_json(given)}"
    return message


def _as_json(value: bool | float | str | None) -> str:  # noqa: FBT001 - it is data, not a flag
    """Write a scalar as the sender wrote it: ``true`` and not ``True``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
