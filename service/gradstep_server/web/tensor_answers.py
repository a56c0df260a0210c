"""Answers that hold tensors: safetensors, or JSON for those who ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import orjson
from fastapi import Query, Request, Response
from pydantic import BaseModel

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.sessions import safetensors
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.receipts import Parameters, Stepped
from gradstep_server.sessions.tensors import DType, Tensors
from gradstep_server.web import nested
from gradstep_server.web.accept import accepted, preference, ranges
from gradstep_server.web.access import etag
from gradstep_server.web.body_answer import BodyAnswer, whole_answer
from gradstep_server.web.body_limit import rooms, take_room
from gradstep_server.web.errors import NotAcceptable
from gradstep_server.web.tensor_bodies import FILE, OTHER_NAMES, SAFETENSORS

JSON_ELEMENTS = 1 << 20
"""The most elements that are written as JSON: some 20 MB, which take 40 ms."""

_WRITTEN = 24
"""Bytes that an element takes as JSON, at most."""

_HEADERS = {
    name: f"Gradstep-{name.replace('_', '-').title()}"
    for name in ("step", "position", "replayed", "applied", "generation", "durable_step")
}
"""The facts that a header says too, for those who do not read the body."""

SIZES = f"JSON is written for at most {JSON_ELEMENTS} elements; {SAFETENSORS} for any number."
"""What a client must know of it, for OpenAPI."""


Narrowed = Annotated[
    DType | None,
    Query(
        alias="dtype",
        description="The dtype to round the parameters to, half as wide as the session's own: F32 "
        "for F64, F16 or BF16 for F32; to nearest, ties to even. "
        f"`Accept: {SAFETENSORS}; dtype=BF16` asks for the same.",
    ),
]

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer with tensors is written."""

    media_type: str
    """As it is told, with the dtype where Accept has named one."""

    dtype: DType | None
    """What parameters are rounded to; None for the session's own."""

    json: bool = False

    def names(self) -> tuple[str, ...]:
        """Return what Accept may call it, in lowercase."""
        if self.json:
            return (self.media_type,)
        name, _, parameter = self.media_type.lower().partition("; ")
        return tuple(";".join(filter(None, (n, parameter))) for n in (name, *OTHER_NAMES))


def require_half(own: DType, asked: DType | None) -> None:
    """Refuse a dtype that the parameters of a session would not be rounded to.

    Raises:
        InvalidRequest: it is not half as wide as the session's own.
    """
    if asked is not None and not own.narrows_to(asked):
        welcome = ", ".join(dtype for dtype in DType if own.narrows_to(dtype))
        detail = f"parameters of {own} are answered as {welcome}, not as {asked}"
        raise InvalidRequest(Fault("/query/dtype", detail))


def chosen(request: Request, own: DType, asked: DType | None, *, json_first: bool) -> Form:
    """Return the form that Accept would rather have.

    Args:
        request: whose headers are looked at.
        own: the session's dtype.
        asked: the one that the query asks for; Accept can name no other one then.
        json_first: whether JSON is written where it is as welcome as safetensors.

    Raises:
        NotAcceptable: Accept names no form that there is.
    """
    return _chosen(accepted(request.headers), own, asked, json_first=json_first)


@lru_cache(maxsize=256)
def _chosen(text: str, own: DType, asked: DType | None, *, json_first: bool) -> Form:
    dtypes = [asked] if asked else [dtype for dtype in DType if own.narrows_to(dtype)]
    forms = [Form(f"{SAFETENSORS}; dtype={dtype}", dtype) for dtype in dtypes]
    forms.append(Form(SAFETENSORS, asked))
    forms.insert(0 if json_first else len(forms), Form(_JSON, asked, json=True))
    wanted = ranges(text)
    found = [preference(wanted, *form.names()) for form in forms]
    best = max(found)
    if best[0] == 0:
        told = ", ".join(sorted(form.media_type for form in forms))
        raise NotAcceptable(f"this address writes {told}")
    return forms[found.index(best)]


def require_file(request: Request) -> None:
    """Refuse a request that does not accept a safetensors file.

    Raises:
        NotAcceptable: it does not.
    """
    if preference(ranges(accepted(request.headers)), SAFETENSORS, *OTHER_NAMES)[0] == 0:
        raise NotAcceptable(f"this address writes {SAFETENSORS} alone")


async def require_small(request: Request, elements: int) -> None:
    """Refuse to write tensors as JSON that would be huge; count the room that it takes.

    Raises:
        NotAcceptable: they have more than `JSON_ELEMENTS` elements.
        Busy: there is no room for it at present.
    """
    if elements > JSON_ELEMENTS:
        raise NotAcceptable(
            f"the parameters have {elements} elements, and at most {JSON_ELEMENTS} are written "
            f"as JSON; send Accept: {SAFETENSORS}"
        )
    await take_room(request, _WRITTEN * elements, rooms(request).answers)


def declared(model: type[BaseModel], description: str, *statuses: int) -> dict[int | str, Any]:
    """Declare answers that are JSON or safetensors, for a route's ``responses=``."""
    return {
        status: {"model": model, "description": description, "content": FILE} for status in statuses
    }


def json_answer(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON, NumPy arrays as lists."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return whole_answer([body], headers, _JSON)


def file_answer(
    tensors: Tensors,
    metadata: Mapping[str, str],
    headers: Mapping[str, str],
    media_type: str = SAFETENSORS,
) -> Response:
    """Answer with a safetensors file."""
    return BodyAnswer(safetensors.encode(tensors, metadata), headers, media_type)


async def params_answer(params: Parameters, form: Form) -> Response:
    """Answer with the parameters of a session."""
    facts = {"step": params.step, "generation": params.generation}
    headers = _headers(facts)
    if form.json:
        return await _nested_answer(facts, params.tensors, headers)
    metadata = {name: str(value) for name, value in facts.items()}
    return file_answer(params.tensors, metadata, headers, form.media_type)


async def step_answer(stepped: Stepped, form: Form) -> Response:
    """Answer with a receipt, and the parameters if they are wanted: 201, or 200 for a replay."""
    receipt, params = stepped.receipt, stepped.params
    facts = receipt.model_dump()
    headers = {**_headers(facts), "ETag": etag((receipt.generation, stepped.seq))}
    if params is None:
        answer = json_answer(facts, headers)
    elif form.json:
        answer = await _nested_answer(facts, params.tensors, headers)
    else:
        metadata = {"receipt": orjson.dumps(facts).decode()}
        answer = file_answer(params.tensors, metadata, headers, form.media_type)
    answer.status_code = 200 if receipt.replayed else 201
    return answer


async def _nested_answer(
    facts: Mapping[str, Any], tensors: Tensors, headers: Mapping[str, str]
) -> Response:
    """Answer with JSON that holds parameters; many are written in a thread."""

    def write() -> Response:
        return json_answer({**facts, "params": nested.write(tensors)}, headers)

    return await offload(sum(tensor.size for tensor in tensors.values()), write)


def _headers(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return those of the facts that have a header of their own."""
    return {header: str(facts[name]).lower() for name, header in _HEADERS.items() if name in facts}
