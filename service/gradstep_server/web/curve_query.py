"""A curve asked for by a URL: ``?base_lr=0.1&steps=100&step_size=30``.

A value is read as JSON where it is JSON, as a list where it holds commas or is
repeated, and as text otherwise; a parameter that is a text is read as it stands.
The result is validated as a body would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_args

import orjson
from pydantic import JsonValue, ValidationError
from starlette.datastructures import QueryParams

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.schedulers import SCHEDULERS, Schedule
from gradstep_server.web.curve_request import CurveRequest
from gradstep_server.web.errors import UnknownKind
from gradstep_server.web.json_body import why_not
from gradstep_server.web.pointers import faults
from gradstep_server.web.unique_names import find_repeated

WINDOW = tuple(name for name in CurveRequest.model_fields if name != "scheduler")
"""The parameters that every kind has."""

_SHARED = {"steps_per_epoch"}
"""What a kind and the loop around it are both told by one parameter. A base_lr is not:
where a kind has one too, the query's is the curve's."""

_ELSEWHERE = {"format", "spec"}
_SPEC = "/query/spec"

_Reader = Callable[[str, list[str]], JsonValue]
"""Reads the texts of a parameter, whose name it tells where they are wrong."""


def from_query(kind_name: str, params: QueryParams) -> CurveRequest:
    """Return the request that a path and a query stand for.

    Raises:
        UnknownKind: there is no scheduler of this name.
        InvalidRequest: a parameter is unknown, missing or wrong.
    """
    if kind_name not in SCHEDULERS:
        raise UnknownKind(kind_name, SCHEDULERS)
    given: dict[str, list[str]] = {}
    for name, text in params.multi_items():
        if name not in _ELSEWHERE:
            given.setdefault(name, []).append(text)
    body: dict[str, Any] = {name: _value(name, given[name]) for name in WINDOW if name in given}
    spec = params.get("spec")
    own = SCHEDULERS[kind_name].model_fields.keys() if spec is None else ()
    shared = _SHARED.intersection(own)
    given = {name: given[name] for name in given if name not in body or name in shared}
    if "metrics" in body and not isinstance(body["metrics"], list):
        body["metrics"] = [body["metrics"]]
    if spec is None:
        body["scheduler"] = _scheduler(SCHEDULERS[kind_name], given)
    else:
        _refuse(given, f"is not read beside spec, whose JSON says all of {kind_name}")
        body["scheduler"] = _parse_spec(spec, kind_name)
    try:
        return CurveRequest.model_validate(body)
    except ValidationError as error:
        places = faults(error.errors(include_url=False), body)
        inside = "/query" if spec is None else _SPEC
        found = (Fault(_in_query(place.pointer, inside), place.detail) for place in places)
        # What is shared is wrong twice.
        raise InvalidRequest(*dict.fromkeys(found)) from error


def _scheduler(kind: type[Schedule], given: Mapping[str, list[str]]) -> dict[str, Any]:
    known = _readers(kind)
    if unknown := [name for name in given if name not in known]:
        names = ", ".join([*WINDOW, *known])
        _refuse(unknown, f"is no parameter of {kind.kind_name()}; there are {names}")
    values = {name: known[name](name, texts) for name, texts in given.items()}
    return {"type": kind.kind_name(), **values}


@cache
def _readers(kind: type[Schedule]) -> Mapping[str, _Reader]:
    """Return what reads each parameter of a kind."""
    fields = kind.model_fields.items()
    return {name: _reader(field.annotation) for name, field in fields if name != "type"}


def _reader(annotation: Any) -> _Reader:  # noqa: ANN401 - an annotation may be anything
    """Return what reads a parameter: a text as it stands, a list of one without brackets."""
    if annotation is str:
        return lambda name, texts: texts[0] if len(texts) == 1 else _value(name, texts)
    origins = (annotation, *get_args(annotation))
    if any(getattr(part, "__origin__", part) in {list, tuple} for part in origins):
        return _list
    return _value


def _list(name: str, texts: list[str]) -> JsonValue:
    value = _value(name, texts)
    return value if isinstance(value, list) else [value]


def _refuse(names: Iterable[str], why: str) -> None:
    wrong = [Fault(f"/query/{name[:64]}", f"{name[:64]!r} {why}") for name in names]
    if wrong:
        raise InvalidRequest(*wrong)


def _parse_spec(spec: str, kind_name: str) -> JsonValue:
    try:
        value: JsonValue = orjson.loads(spec)
    except orjson.JSONDecodeError as error:
        at, reason = why_not(spec, error)
        raise InvalidRequest(Fault(_SPEC, f"not JSON at character {at}: {reason}")) from error
    _refuse_repeated(_SPEC, spec)
    if isinstance(value, dict) and value.setdefault("type", kind_name) != kind_name:
        raise InvalidRequest(
            Fault(f"{_SPEC}/type", f"the path says {kind_name}; the two must agree")
        )
    return value


def _value(name: str, texts: list[str]) -> JsonValue:
    if len(texts) > 1:
        return _items(name, texts)
    (text,) = texts
    try:
        return _json(name, text)
    except orjson.JSONDecodeError:
        return _items(name, text.split(",")) if "," in text else text


def _items(name: str, texts: list[str]) -> list[JsonValue]:
    """Read the items of a list up to the first that is no JSON, for which all of it is refused."""
    items: list[JsonValue] = []
    for text in texts:
        try:
            items.append(_json(name, text))
        except orjson.JSONDecodeError:
            return [*items, text]
    return items


def _json(name: str, text: str) -> JsonValue:
    value: JsonValue = orjson.loads(text)
    _refuse_repeated(f"/query/{name}", text)
    return value


def _refuse_repeated(at: str, text: str) -> None:
    if "{" in text and (repeated := find_repeated(text.encode())):
        name = repeated[1]
        raise InvalidRequest(
            Fault(at, f"the name {name[:100]!r} stands in its object for the second time")
        )


def _in_query(pointer: str, inside: str) -> str:
    """Turn a pointer into the body that was built into one into the query."""
    if pointer == "/scheduler" or pointer.startswith("/scheduler/"):
        return inside + pointer.removeprefix("/scheduler")
    return "/query" + pointer
