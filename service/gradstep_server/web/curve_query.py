"""A curve asked for by a URL: ``?base_lr=0.1&steps=100&step_size=30``.

A value is read as JSON where it is JSON, as a list where it holds commas or is
repeated, and as text otherwise; a parameter that is a text is read as it stands.
The result is validated as a body would be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def from_query(kind_name: str, params: QueryParams) -> CurveRequest:
    """Return the request that a path and a query stand for.

    Raises:
        UnknownKind: there is no scheduler of this name.
        InvalidRequest: a parameter is unknown, missing or wrong.
    """
    if kind_name not in SCHEDULERS:
        raise UnknownKind(kind_name, SCHEDULERS)
    given = {name: params.getlist(name) for name in params if name not in _ELSEWHERE}
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
    known = {name: field for name, field in kind.model_fields.items() if name != "type"}
    names = ", ".join([*WINDOW, *known])
    unknown = [name for name in given if name not in known]
    _refuse(unknown, f"is no parameter of {kind.kind_name()}; there are {names}")
    values = {name: _typed(name, texts, known[name].annotation) for name, texts in given.items()}
    return {"type": kind.kind_name(), **values}


def _typed(name: str, texts: list[str], annotation: Any) -> JsonValue:  # noqa: ANN401 - an annotation may be anything
    """Read a parameter: a text as it stands, a list of one without brackets."""
    if annotation is str and len(texts) == 1:
        return texts[0]
    value = _value(name, texts)
    return [value] if _is_list(annotation) and not isinstance(value, list) else value


def _is_list(annotation: Any) -> bool:  # noqa: ANN401 - an annotation may be anything
    origins = (annotation, *get_args(annotation))
    return any(getattr(part, "__origin__", part) in {list, tuple} for part in origins)


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
    values = [_one(name, text) for text in texts]
    return values[0] if len(values) == 1 else values


def _one(name: str, text: str) -> JsonValue:
    try:
        value: JsonValue = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [_one(name, part) for part in text.split(",")] if "," in text else text
    _refuse_repeated(f"/query/{name}", text)
    return value


def _refuse_repeated(at: str, text: str) -> None:
    if repeated := find_repeated(text.encode()):
        name = repeated[1]
        raise InvalidRequest(
            Fault(at, f"the name {name[:100]!r} stands in its object for the second time")
        )


def _in_query(pointer: str, inside: str) -> str:
    """Turn a pointer into the body that was built into one into the query."""
    if pointer == "/scheduler" or pointer.startswith("/scheduler/"):
        return inside + pointer.removeprefix("/scheduler")
    return "/query" + pointer
