"""Bodies that hold tensors: safetensors, or JSON for small ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradstep_server.sessions import safetensors
from gradstep_server.sessions.errors import Fault, InvalidRequest
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType, Tensors
from gradstep_server.web import json_body, nested
from gradstep_server.web.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType
from gradstep_server.web.pointers import faults

SAFETENSORS = "application/vnd.safetensors"
"""The media type that is written; the registered name of the format."""

TENSOR_TYPES = frozenset({SAFETENSORS, "application/x-safetensors", "application/octet-stream"})
"""The media types that are read as safetensors."""

STATE_FACTOR = 4
"""How many tensors a state has for each parameter, at most."""

JSON_LIMIT = json_body.StrictJsonRoute.json_limit

_Model = TypeVar("_Model", bound=BaseModel)

NestedTensors = Annotated[dict[str, Any], Field(min_length=1)]


class GradientsBody(Asked):
    """Gradients as nested lists, for small models."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"grads": {"w": [0.1, -0.2], "b": 0.3}, "loss": 0.31}]}
    )

    grads: NestedTensors
    """The gradient of each tensor; a tensor that is left out is not stepped."""


class ParamsBody(BaseModel):
    """Parameters as nested lists, for small models."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"params": {"w": [0.0, 0.0], "b": 0.0}}]},
    )

    params: NestedTensors
    """Nested lists of numbers by tensor name."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """What the body of a step holds."""

    tensors: Tensors
    asked: Asked
    json: bool
    """Whether it came as JSON."""


async def gradients(request: Request, master: DType, limits: Limits) -> Gradients:
    """Return the gradients of a body, and what was said beside them."""
    if _is_safetensors(request):
        tensors, _ = safetensors.decode(await receive(request), limits)
        return Gradients(tensors, _asked(request), json=False)
    for name in Asked.model_fields:
        if name in request.query_params:
            raise InvalidRequest(Fault(f"/query/{name}", "stands in the body where that is JSON"))
    body = _validated(GradientsBody, await _json(request))
    asked = Asked(loss=body.loss, lr=body.lr)
    return Gradients(nested.read(body.grads, master, "grads", limits.tensors), asked, json=True)


async def params(request: Request, master: DType, limits: Limits) -> Tensors:
    """Return the parameters of a body."""
    if _is_safetensors(request):
        return safetensors.decode(await receive(request), limits)[0]
    body = _validated(ParamsBody, await _json(request))
    return nested.read(body.params, master, "params", limits.tensors)


async def state(request: Request, limits: Limits) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors and the metadata of a whole state, always a safetensors file."""
    if not _is_safetensors(request):
        raise UnsupportedMediaType(f"a state travels as {SAFETENSORS}")
    wider = Limits(limits.header * STATE_FACTOR, limits.tensors * STATE_FACTOR)
    return safetensors.decode(await receive(request), wider)


async def receive(request: Request) -> memoryview:
    """Read a whole body into one buffer of the announced length, or a growing one.

    Raises:
        MalformedBody: the body is shorter than announced.
    """
    announced = request.headers.get("content-length")
    if announced is None:
        grown = bytearray()
        async for chunk in request.stream():
            grown += chunk
        return memoryview(grown)
    buffer = memoryview(bytearray(int(announced)))
    end = 0
    async for chunk in request.stream():
        start, end = end, end + len(chunk)
        buffer[start:end] = chunk
    if end != len(buffer):
        raise MalformedBody(f"the body ended after {end} of {len(buffer)} bytes")
    return buffer


def _is_safetensors(request: Request) -> bool:
    json_body.refuse_encoding(request.headers)
    media = json_body.media_type(request.headers)
    if media in TENSOR_TYPES:
        return True
    if json_body.is_json(media):
        return False
    said = f"Content-Type is {media[:64]!r}" if media else "Content-Type is missing"
    raise UnsupportedMediaType(f"{said}; send {SAFETENSORS} or application/json")


async def _json(request: Request) -> object:
    body = await receive(request)
    if len(body) > JSON_LIMIT:
        detail = f"{len(body)} bytes of JSON; at most {JSON_LIMIT} are accepted, send {SAFETENSORS}"
        raise BodyTooLarge(detail)
    return json_body.parse(body)


def _asked(request: Request) -> Asked:
    """Return what the query says beside safetensors gradients."""
    facts: dict[str, Any] = {}
    for name in Asked.model_fields:
        if (text := request.query_params.get(name)) is not None:
            facts[name] = _number(text)
    return _validated(Asked, facts, "/query")


def _number(text: str) -> object:
    """Return the number, or list of numbers, that a query value writes; else the text."""
    for form in (text, f"[{text}]"):
        try:
            return orjson.loads(form)
        except orjson.JSONDecodeError:
            continue
    return text


def _validated(model: type[_Model], value: object, where: str = "") -> _Model:
    """Return `value` as a model, or raise with pointers that lead through it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = faults(error.errors(), value)
        raise InvalidRequest(*(Fault(where + f.pointer, f.detail) for f in found)) from None
