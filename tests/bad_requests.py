"""Requests that must be refused: what is sent, and what the answer must name.

All are sent to one session, `PATH`: AdamW in float32 with one group, the
tensors w (2) and m (2, 2), one step taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from session_app import SAFETENSORS, f32, file, raw_file

PATH = "/v1/sessions/s"
STEP = f"{PATH}/steps/2"
EPOCHS = "/v1/sessions/epochs"
"""Another session, whose schedule counts epochs."""

EMPTY = "/v1/sessions/empty"
"""Another session, which has no parameters and a group for `*.bias`."""

JSON = {"Content-Type": "application/json"}
MAX_BODY = 1_000_000
DEEP = b"[" * 10_000 + b"]" * 10_000


@dataclass(frozen=True)
class Bad:
    """A request, and its refusal."""

    name: str
    method: str
    path: str
    body: bytes
    status: int
    code: str
    says: str
    """What the pointer or the detail must contain: the field or tensor at fault."""

    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


def _bytes(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _rows(
    method: str, path: str, status: int, code: str, rows: dict[str, tuple[Any, str]]
) -> list[Bad]:
    """Return rows that differ in their body alone."""
    return [
        Bad(f"{method} {path}: {name}", method, path, _bytes(body), status, code, says)
        for name, (body, says) in rows.items()
    ]


def _grads(**grads: Any) -> dict[str, Any]:
    return {"grads": grads}


def _raw(grads: str) -> bytes:
    return b'{"grads": {"w": ' + grads.encode() + b"}}"


GRADIENTS = _rows(
    "PUT",
    STEP,
    422,
    "invalid-tensors",
    {
        "an unknown tensor": (_grads(v=[1, 2]), "/grads/v"),
        "an unknown tensor beside a known one": (_grads(w=[1, 2], wb=[1]), "/grads/wb"),
        "an empty tensor name": ({"grads": {"": [1, 2]}}, "/grads/"),
        "__metadata__ as a tensor": (_grads(__metadata__=[1, 2]), "/grads/__metadata__"),
        "a slash and a tilde in a name": (_grads(**{"a/b~": [1]}), "/grads/a~1b~0"),
        "too few elements": (_grads(w=[1]), "/grads/w: the shape is [1], the session's is [2]"),
        "too many elements": (_grads(w=[1, 2, 3]), "/grads/w"),
        "another rank": (_grads(w=[[1, 2]]), "/grads/w"),
        "a transposed shape": (_grads(m=[[1, 2, 3, 4]]), "/grads/m"),
        "a number for a vector": (_grads(w=1), "/grads/w"),
        "an empty list": (_grads(w=[]), "/grads/w"),
        "a ragged list": (_grads(m=[[1, 2], [3]]), "/grads/m"),
        "a list beside a number": (_grads(m=[[1, 2], 3]), "/grads/m"),
        "null as an element": (_grads(w=[1, None]), "/grads/w: element 1 is null"),
        "a string as an element": (_grads(w=["1", 2]), "/grads/w: element 0 is a text"),
        "true as an element": (_grads(w=[1, True]), "/grads/w: element 1 is a truth value"),
        "an object as a tensor": (_grads(w={"0": 1}), "/grads/w"),
        "null as a tensor": (_grads(w=None), "/grads/w"),
        "33 levels of lists": (_raw("[" * 33 + "1" + "]" * 33), "/grads/w"),
        "an element beyond float32": (_grads(w=[1, 1e39]), "/grads/w: element 1"),
    },
)
ASKED = _rows(
    "PUT",
    STEP,
    422,
    "invalid-request",
    {
        "no gradients": ({}, "/grads"),
        "an empty set of gradients": ({"grads": {}}, "/grads"),
        "an array as the body": ([], "object"),
        "a string as the body": ("grads", "object"),
        "null as the body": (None, "object"),
        "a list of gradients": ({"grads": [1, 2]}, "/grads"),
        "null as gradients": ({"grads": None}, "/grads"),
        "an unknown field": ({**_grads(w=[1, 2]), "gradz": 1}, "/gradz"),
        "params beside gradients": ({**_grads(w=[1, 2]), "params": {}}, "/params"),
        "a negative rate": ({**_grads(w=[1, 2]), "lr": -0.1}, "/lr"),
        "true as a rate": ({**_grads(w=[1, 2]), "lr": True}, "/lr"),
        "a string as a rate": ({**_grads(w=[1, 2]), "lr": "0.1"}, "/lr"),
        "two rates for one group": ({**_grads(w=[1, 2]), "lr": [0.1, 0.2]}, "/lr: has 2 rates"),
        "no rates": ({**_grads(w=[1, 2]), "lr": []}, "/lr"),
        "true among the rates": ({**_grads(w=[1, 2]), "lr": [True]}, "/lr/0"),
        "a negative one among the rates": ({**_grads(w=[1, 2]), "lr": [-1]}, "/lr/0"),
        "a rate beyond float32": ({**_grads(w=[1, 2]), "lr": 1e300}, "/lr"),
        "a string as the loss": ({**_grads(w=[1, 2]), "loss": "low"}, "/loss"),
        "a list as the loss": ({**_grads(w=[1, 2]), "loss": [1]}, "/loss"),
        "true as the loss": ({**_grads(w=[1, 2]), "loss": True}, "/loss"),
    },
)
NOT_JSON = _rows(
    "PUT",
    STEP,
    400,
    "malformed-body",
    {
        "an empty body": (b"", "byte 0"),
        "NaN": (_raw("[1, NaN]"), "byte"),
        "Infinity": (_raw("[1, Infinity]"), "byte"),
        "1e400": (_raw("[1, 1e400]"), "byte"),
        "a number of 400 digits": (_raw(f"[1, {'9' * 400}]"), "byte"),
        "a truncated body": (b'{"grads": {"w": [1,', "byte"),
        "10,000 levels of lists": (_raw(DEEP.decode()), "byte"),
        "bytes that are no text": (b'{"grads": {"\xff": [1]}}', "UTF-8"),
        "two documents": (b"{}{}", "byte"),
    },
)


def _entry(dtype: object, shape: object, *offsets: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def _header(data: bytes = bytes(8), **entries: object) -> bytes:
    return raw_file(json.dumps(entries).encode(), data)


GOOD = file({"w": f32(1, 2)})
TWICE = b'{"w":%b,"w":%b}' % ((json.dumps(_entry("F32", [2], 0, 8)).encode(),) * 2)
MANY = {f"t{i}": _entry("F32", [0], 0, 0) for i in range(5_000)}

FILES: dict[str, tuple[bytes, str]] = {
    "an empty body": (b"", "0 bytes"),
    "three bytes": (b"abc", "3 bytes"),
    "a header beyond the file": ((10_000).to_bytes(8, "little") + b"{}", "truncated"),
    "a header of exabytes": (b"\xff" * 8 + b"{}", "header claims"),
    "a truncated file": (GOOD[:-1], "7"),
    "a byte too many": (GOOD + b"\0", "9"),
    "JSON for a file": (b'{"grads": {"w": [1, 2]}}', "header"),
    "a header that is no JSON": (raw_file(b"{w}"), "JSON"),
    "a header that is a list": (raw_file(b"[]"), "object"),
    "a header of 10,000 levels": (raw_file(DEEP), "deep"),
    "NaN in the header": (raw_file(b'{"w": NaN}'), "NaN"),
    "a number of 5,000 digits": (raw_file(b'{"w": ' + b"9" * 5_000 + b"}"), "JSON"),
    "no tensors": (raw_file(b"{}"), "/grads"),
    "a name twice": (raw_file(TWICE, bytes(8)), "'w' occurs twice"),
    "an empty name": (file({"": f32(1, 2)}), "/grads/"),
    "__metadata__ as a tensor": (_header(__metadata__=_entry("F32", [2], 0, 8)), "/__metadata__"),
    "metadata that is no text": (_header(__metadata__={"a": 1}), "/__metadata__"),
    "a lone surrogate": (raw_file(b'{"\\ud800": 1}'), "surrogate"),
    "5,000 tensors": (_header(b"", **MANY), "5000 tensors"),
    "an unknown tensor": (file({"v": f32(1, 2)}), "/grads/v"),
    "another shape": (file({"w": f32(1, 2, 3)}), "/grads/w"),
    "F64 into F32": (file({"w": np.zeros(2)}), "/grads/w: the dtype F64 is wider"),
    "I64": (_header(bytes(16), w=_entry("I64", [2], 0, 16)), "/w: dtype 'I64'"),
    "BOOL": (_header(bytes(2), w=_entry("BOOL", [2], 0, 2)), "/w: dtype 'BOOL'"),
    "a dtype in lowercase": (_header(w=_entry("f32", [2], 0, 8)), "/w"),
    "a number as the dtype": (_header(w=_entry(32, [2], 0, 8)), "/w"),
    "a negative shape": (_header(w=_entry("F32", [-2], 0, 8)), "/w: shape"),
    "true in a shape": (_header(w=_entry("F32", [2, True], 0, 8)), "/w: shape"),
    "a fraction in a shape": (_header(w=_entry("F32", [2.0], 0, 8)), "/w: shape"),
    "a shape of 2^62": (_header(w=_entry("F32", [2**62, 2**62], 0, 8)), "/w"),
    "a shape of 33 dimensions": (_header(w=_entry("F32", [1] * 33, 0, 4)), "/w: shape"),
    "offsets backwards": (_header(w=_entry("F32", [2], 8, 0)), "/w"),
    "offsets beyond the data": (_header(w=_entry("F32", [4], 0, 16)), "16 bytes"),
    "one offset": (_header(w=_entry("F32", [2], 0)), "/w: data_offsets"),
    "a gap": (_header(bytes(16), w=_entry("F32", [2], 8, 16)), "/w: data_offsets leaves a gap"),
    "an overlap": (
        _header(w=_entry("F32", [2], 0, 8), m=_entry("F32", [1], 4, 8)),
        "/m: data_offsets overlaps",
    ),
    "a field too many": (_header(w={**_entry("F32", [2], 0, 8), "x": 1}), "/w"),
    "a field too few": (_header(w={"dtype": "F32", "shape": [2]}), "/w"),
    "a tensor that is null": (_header(w=None), "/w"),
}
BINARY = [
    Bad(f"safetensors: {name}", "PUT", STEP, body, 422, "invalid-tensors", says, SAFETENSORS)
    for name, (body, says) in FILES.items()
]
UNUSABLE = [
    Bad(
        f"safetensors: {name}",
        "PUT",
        STEP,
        file(grads),
        422,
        "non-finite-gradient",
        says,
        SAFETENSORS,
    )
    for name, grads, says in (
        ("NaN", {"w": f32(1, np.nan)}, "/grads/w/1"),
        ("infinity", {"m": f32(1, 2, np.inf, 4).reshape(2, 2)}, "/grads/m/1/0"),
        ("minus infinity", {"w": f32(-np.inf, 1)}, "/grads/w/0"),
        ("a square beyond float32", {"w": f32(1e30, 1)}, "/grads/w/0"),
    )
]
QUERIES = [
    Bad(
        f"{name} in the query",
        "PUT",
        f"{STEP}?{query}",
        GOOD,
        422,
        "invalid-request",
        says,
        SAFETENSORS,
    )
    for name, query, says in (
        ("a negative rate", "lr=-1", "/query/lr"),
        ("true as a rate", "lr=true", "/query/lr"),
        ("no number as a rate", "lr=fast", "/query/lr"),
        ("an empty rate", "lr=", "/lr"),
        ("too many rates", "lr=0.1,0.2", "/lr: has 2 rates"),
        ("NaN as a loss", "loss=nan", "/query/loss"),
        ("1e400 as a loss", "loss=1e400", "/query/loss"),
        ("an unknown return", "return=everything", "/query/return"),
    )
]
QUERIES += [
    Bad(
        f"{name} in the query beside JSON",
        "PUT",
        f"{STEP}?{name}=0.5",
        _raw("[1, 2]"),
        422,
        "invalid-request",
        f"/query/{name}",
    )
    for name in ("lr", "loss")
]
NUMBERS = [
    Bad(f"{kind} n = {n}", "PUT", f"{PATH}/{kind}/{n}", b'{"grads": {"w": [1, 2]}}', *refusal)
    for kind, n, refusal in (
        ("steps", "0", (422, "invalid-request", "/path/n")),
        ("steps", "-1", (422, "invalid-request", "/path/n")),
        ("steps", "9223372036854775808", (422, "invalid-request", "/path/n")),
        ("steps", "9007199254740992", (422, "invalid-request", "/path/n")),
        ("steps", "1.5", (422, "invalid-request", "/path/n")),
        ("steps", "abc", (422, "invalid-request", "/path/n")),
        ("steps", "2.0", (422, "invalid-request", "/path/n")),
        ("steps", "2%0A", (422, "invalid-request", "/path/n")),
        ("steps", "%202", (422, "invalid-request", "/path/n")),
        ("steps", "%2B2", (422, "invalid-request", "/path/n")),
        ("steps", "1_0", (422, "invalid-request", "/path/n")),
        ("steps", "%D9%A2", (422, "invalid-request", "/path/n")),
        ("steps", "3", (409, "position-mismatch", "send 2")),
        ("steps", "1", (409, "step-conflict", "send 2")),
    )
]
