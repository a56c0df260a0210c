"""Bodies that hold tensors: safetensors, or JSON for small ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.sessions import safetensors
from gradstep_server.sessions.buffers import Buffers
from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.stepping import Asked
from gradstep_server.sessions.tensors import DType, Tensors
from gradstep_server.web import json_body, nested
from gradstep_server.web.pointers import faults
from gradstep_server.web.receiving import receive

SAFETENSORS = "application/vnd.safetensors"
"""The media type that is written; the registered name of the format."""

OTHER_NAMES = ("application/x-safetensors", "application/octet-stream")
"""Media types that are read as safetensors too."""

FILE: dict[str, Any] = {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}
"""A safetensors file, for OpenAPI."""

STATE_FACTOR = 1 + max(
    len(kind.model_validate(example).slots())
    for kind in OPTIMIZERS.values()
    for example in kind.examples
)
"""How many tensors a state has for each parameter, at most: itself and its slots."""

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


async def _said(
    loss: Annotated[
        str | None, Query(description="The loss; stands in the body where that is JSON.")
    ] = None,
    lr: Annotated[
        str | None,
        Query(
            description="The rate of this step, or one for each group, separated by commas; "
            "stands in the body where that is JSON."
        ),
    ] = None,
) -> dict[str, str]:
    return {name: text for name, text in (("loss", loss), ("lr", lr)) if text is not None}


Said = Annotated[Mapping[str, str], Depends(_said)]
"""What the query says beside safetensors gradients."""


async def gradients(
    request: Request,
    said: Mapping[str, str],
    master: DType,
    limits: Limits,
    buffers: Buffers,
    laps: Laps,
) -> Gradients:
    """Return the gradients of a body, and what was said beside them."""
    if _is_safetensors(request):
        received = await receive(request, buffers)
        laps.end("receive")
        tensors, _ = safetensors.decode(received, limits)
        laps.end("decode")
        facts = {name: _number(text) for name, text in said.items()}
        return Gradients(tensors, _validated(Asked, facts, "/query"), json=False)
    if said:
        detail = "stands in the body where that is JSON"
        raise InvalidRequest(*(Fault(f"/query/{name}", detail) for name in said))
    read = await json_body.read(request, json_body.LIMIT)
    laps.end("receive")
    body = _validated(GradientsBody, json_body.parse(read))
    tensors = await nested.read(body.grads, master, "grads", limits.tensors)
    laps.end("decode")
    return Gradients(tensors, Asked(loss=body.loss, lr=body.lr), json=True)


async def params(request: Request, master: DType, limits: Limits, buffers: Buffers) -> Tensors:
    """Return the parameters of a body."""
    if _is_safetensors(request):
        return safetensors.decode(await receive(request, buffers), limits)[0]
    body = _validated(ParamsBody, await _json(request))
    return await nested.read(body.params, master, "params", limits.tensors)


async def state(
    request: Request, limits: Limits, buffers: Buffers
) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors and the metadata of a whole state, always a safetensors file."""
    if not _is_file(request):
        raise json_body.unsupported(request.headers, SAFETENSORS)
    wider = Limits(limits.header * STATE_FACTOR, limits.tensors * STATE_FACTOR)
    return safetensors.decode(await receive(request, buffers), wider)


def declared(model: type[BaseModel]) -> dict[str, Any]:
    """Declare a body that is JSON or safetensors, for a route's ``openapi_extra=``."""
    content = {"application/json": {"schema": model.model_json_schema()}, **FILE}
    return {"requestBody": {"required": True, "content": content}}


def _is_safetensors(request: Request) -> bool:
    """Tell whether a body is safetensors or JSON; refuse what is neither."""
    if _is_file(request):
        return True
    if json_body.is_json(json_body.media_type(request.headers)):
        return False
    raise json_body.unsupported(request.headers, SAFETENSORS, "application/json")


def _is_file(request: Request) -> bool:
    json_body.refuse_encoding(request.headers)
    return json_body.media_type(request.headers) in {SAFETENSORS, *OTHER_NAMES}


async def _json(request: Request) -> object:
    return json_body.parse(await json_body.read(request, json_body.LIMIT))


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
