"""Requests that were made to cost much: bodies, queries, headers and ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fuzz.direct import JSON, Sent
from session_app import SAFETENSORS, f32, file, raw_file

SESSION = "/v1/sessions/witness"
STEP = f"{SESSION}/steps/2"
OTHER = "/v1/sessions/other"
"""A session that may be changed."""

SGD = {"type": "SGD", "lr": 0.1}


@dataclass(frozen=True)
class Hostile:
    """A request, and the statuses that it may get."""

    name: str
    make: Callable[[], Sent]
    statuses: frozenset[int] = field(default_factory=lambda: frozenset({422}))
    is_read: bool = False
    """Whether it is a plain list of numbers, which has to be read as JSON before its length is
    known: what orjson takes for that is not counted."""


def _step(body: Callable[[], bytes], *, is_json: bool = False) -> Callable[[], Sent]:
    return lambda: Sent("PUT", STEP, body(), JSON if is_json else SAFETENSORS)


def _json(method: str, path: str, body: Callable[[], Any]) -> Callable[[], Sent]:
    return lambda: Sent(method, path, json.dumps(body()).encode())


def _curve(**scheduler: Any) -> dict[str, Any]:
    return {"scheduler": scheduler, "base_lr": 0.1, "steps": 10}


def _entry(name: str) -> bytes:
    return b'"%s":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % name.encode()


def _empty_tensors() -> bytes:
    return raw_file(b"{" + b",".join(_entry(f"t{i}") for i in range(900_000)) + b"}")


def _miscounted() -> bytes:
    counters = json.dumps({str(i): -1 for i in range(200_000)})
    facts = {"format": "gradstep-state", "version": "1", "step": "3", "epoch": "0", "origin": "0"}
    return file({"params/w": f32(1)}, {**facts, "counters": counters})


def _nested(depth: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"type": "LinearLR"}
    for _ in range(depth):
        inner = {"type": "SequentialLR", "schedulers": [inner], "milestones": []}
    return inner


def _nested_text() -> Sent:
    text = '{"type":"SequentialLR","milestones":[],"schedulers":[' * 1_000
    whole = text + '{"type":"LinearLR"}' + "]}" * 1_000
    return Sent("POST", "/v1/schedules", f'{{"base_lr":1,"scheduler":{whole}}}'.encode())


def _globbed() -> dict[str, Any]:
    stars = "*a" * 240 + "*b"
    names = {"a" * 400 + str(i): [0.0] for i in range(100)}
    return {"optimizer": SGD, "param_groups": [{"match": [stars]}], "params": names}


def _many_globs() -> dict[str, Any]:
    patterns = ["*a" * 240 + f"*b{i}" for i in range(256)]
    return {
        "optimizer": SGD,
        "param_groups": [{"match": patterns}],
        "params": {"a" * 1_000 + str(i): [0.0] for i in range(1_000)},
    }


MANY = 1_000_000
BAD_REQUEST = frozenset({400, 422})
TABLE = (
    Hostile("60 MB of safetensors: 900,000 empty tensors", _step(_empty_tensors)),
    Hostile(
        "a header of 1 MiB full of tensors",
        _step(lambda: raw_file(b"{" + b",".join(_entry(f"t{i}") for i in range(19_000)) + b"}")),
    ),
    Hostile("a header length of 2^63-1", _step(lambda: b"\xff" * 7 + b"\x7f{}")),
    Hostile("a header of 1 MiB of [", _step(lambda: raw_file(b"[" * 2**20))),
    Hostile(
        "a header of 1 MiB of [[], [], …", _step(lambda: raw_file(b"[" + b"[]," * 349_000 + b"[]]"))
    ),
    Hostile(
        "a header with a number of a million digits",
        _step(lambda: raw_file(b'{"w":' + b"9" * 1_000_000 + b"}")),
    ),
    Hostile("JSON nested a million deep", _step(lambda: b"[" * MANY, is_json=True), BAD_REQUEST),
    Hostile(
        "JSON objects nested a million deep",
        _step(lambda: b'{"a":' * MANY, is_json=True),
        BAD_REQUEST,
    ),
    Hostile(
        "an integer of a million digits",
        _step(lambda: b'{"grads":{"w":[1,' + b"9" * MANY + b"]}}", is_json=True),
        BAD_REQUEST,
    ),
    Hostile(
        "a fraction of a million digits",
        lambda: Sent("PUT", f"{OTHER}/steps/1", b'{"grads":{"w":[1,0.' + b"9" * MANY + b"]}}"),
        frozenset({200, 201}),
    ),
    Hostile(
        "100,000 param_groups",
        _json(
            "POST",
            "/v1/sessions",
            lambda: {"optimizer": SGD, "param_groups": [{"match": ["w"]}] * 100_000},
        ),
    ),
    Hostile(
        "100,000 param_groups that are wrong",
        _json("POST", "/v1/sessions", lambda: {"optimizer": SGD, "param_groups": [1] * 100_000}),
    ),
    Hostile(
        "100,000 patterns in a group",
        _json(
            "POST",
            "/v1/sessions",
            lambda: {"optimizer": SGD, "param_groups": [{"match": ["w"] * 100_000}]},
        ),
    ),
    Hostile(
        "100,000 patterns to freeze",
        _json("POST", "/v1/sessions", lambda: {"optimizer": SGD, "freeze": ["w"] * 100_000}),
    ),
    Hostile(
        "a pattern of 240 stars, names of 400 letters", _json("POST", "/v1/sessions", _globbed)
    ),
    Hostile(
        "256 patterns of 240 stars, 1,000 long names", _json("POST", "/v1/sessions", _many_globs)
    ),
    Hostile(
        "ExpressionLR of 9**9**9**9",
        _json(
            "POST", "/v1/schedules", lambda: _curve(type="ExpressionLR", expression="9**9**9**9")
        ),
        frozenset({200, 422}),
    ),
    Hostile(
        "ExpressionLR of 9**9**…, 300 deep",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(type="ExpressionLR", expression="9**" * 300 + "9"),
        ),
    ),
    Hostile(
        "ExpressionLR of 100 KB",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(type="ExpressionLR", expression="t+" * 50_000 + "t"),
        ),
    ),
    Hostile(
        "ExpressionLR of 1,000 brackets",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(type="ExpressionLR", expression="(" * 499 + "t" + ")" * 499),
        ),
    ),
    Hostile("SequentialLR nested 1,000 deep", _nested_text, frozenset({400, 422})),
    Hostile(
        "SequentialLR nested 300 deep",
        _json("POST", "/v1/schedules", lambda: _curve(**_nested(300))),
    ),
    Hostile(
        "SequentialLR of 100,000 schedulers",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(
                type="SequentialLR", schedulers=[{"type": "LinearLR"}] * 100_000, milestones=[]
            ),
        ),
    ),
    Hostile(
        "a million milestones",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(type="MultiStepLR", milestones=list(range(MANY))),
        ),
        is_read=True,
    ),
    Hostile(
        "a million milestones of SequentialLR",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(
                type="SequentialLR", schedulers=[{"type": "LinearLR"}], milestones=list(range(MANY))
            ),
        ),
        is_read=True,
    ),
    Hostile(
        "a million milestones that are wrong",
        _json("POST", "/v1/schedules", lambda: _curve(type="MultiStepLR", milestones=["x"] * MANY)),
        is_read=True,
    ),
    Hostile(
        "a million points of PiecewiseLR",
        _json(
            "POST",
            "/v1/schedules",
            lambda: _curve(type="PiecewiseLR", points=[[i, 1] for i in range(MANY)]),
        ),
    ),
    Hostile(
        "a million rates of a curve",
        _json(
            "POST", "/v1/schedules", lambda: {**_curve(type="LinearLR"), "base_lr": [0.1] * MANY}
        ),
        is_read=True,
    ),
    Hostile(
        "a million metrics that are wrong",
        _json(
            "POST",
            "/v1/schedules",
            lambda: {**_curve(type="ReduceLROnPlateau"), "metrics": ["x"] * MANY},
        ),
        is_read=True,
    ),
    Hostile(
        "a tensor's name twice, 9,000 times",
        _step(lambda: raw_file(b"{" + b",".join([_entry("w")] * 9_000) + b"}")),
    ),
    Hostile(
        "a tensor's name of 1 MB",
        _step(lambda: raw_file(b"{" + _entry("w" * 1_000_000) + b"}")),
    ),
    Hostile(
        "a tensor's name of 1 MB in JSON",
        _step(lambda: b'{"grads":{"%b":[1]}}' % (b"w" * 1_000_000), is_json=True),
    ),
    Hostile(
        "a tensor's name of 1 MB of ~ in JSON",
        _step(lambda: b'{"grads":{"%b":["x"]}}' % (b"~" * 1_000_000), is_json=True),
    ),
    Hostile(
        "a session whose tensor has a name of 1 MB",
        _json(
            "POST", "/v1/sessions", lambda: {"optimizer": SGD, "params": {"w" * 1_000_000: [0.0]}}
        ),
    ),
    Hostile(
        "4,000 tensors that are unknown",
        _step(lambda: file({f"t{i}": f32(1) for i in range(4_000)})),
    ),
    Hostile(
        "200,000 wrong counters in a state",
        lambda: Sent("PUT", f"{OTHER}/state", _miscounted(), SAFETENSORS),
    ),
    Hostile(
        "60 MB of empty objects",
        _step(lambda: b'{"grads": {"w": [' + b"{}," * 20_000_000 + b"{}]}}", is_json=True),
    ),
    Hostile(
        "a name twice, a million numbers apart",
        _step(lambda: b'{"a": 1, "grads": {"w{": [1' + b",1" * MANY + b']}, "a": 2}', is_json=True),
        BAD_REQUEST,
        is_read=True,
    ),
    Hostile(
        "a name twice, 16,000 names and 16,000 texts apart",
        _step(
            lambda: (
                b'{"a": 1, %b, "b": [%b], "\\u0061": 1}'
                % (
                    b",".join(b'"\\n%d:": 1' % i for i in range(8_000)),
                    b",".join([b'"\\u003a"'] * 16_000),
                )
            ),
            is_json=True,
        ),
        BAD_REQUEST,
    ),
    Hostile(
        "a million fields in an object",
        _step(lambda: json.dumps({str(i): 0 for i in range(MANY)}).encode(), is_json=True),
    ),
    Hostile(
        "a million tensors in JSON",
        _step(
            lambda: json.dumps({"grads": {str(i): 0 for i in range(MANY)}}).encode(), is_json=True
        ),
    ),
    Hostile(
        "a million hyperparameters",
        _json(
            "POST",
            "/v1/sessions",
            lambda: {"optimizer": {**SGD, **{str(i): 0 for i in range(MANY)}}},
        ),
    ),
    Hostile(
        "a million rates of a step",
        _step(
            lambda: json.dumps({"grads": {"w": [1, 2]}, "lr": [0.1] * MANY}).encode(), is_json=True
        ),
        is_read=True,
    ),
    Hostile(
        "a million lists as a tensor",
        _step(lambda: json.dumps({"grads": {"w": [[1]] * MANY}}).encode(), is_json=True),
    ),
    Hostile(
        "a query of 60 KB",
        lambda: Sent("GET", f"{SESSION}/history?after={'9' * 60_000}", headers={}),
    ),
    Hostile(
        "a query of 10,000 names",
        lambda: Sent(
            "GET", f"{SESSION}/history?{'&'.join(f'a{i}=1' for i in range(10_000))}", headers={}
        ),
    ),
    Hostile(
        "a curve's query of 13,000 names",
        lambda: Sent(
            "GET", f"/v1/schedules/StepLR?{'&'.join(f'{i:x}=' for i in range(13_000))}", headers={}
        ),
    ),
    Hostile(
        "30,000 letters in a curve's query",
        lambda: Sent(
            "GET", f"/v1/schedules/MultiStepLR?base_lr=1&milestones={'a,' * 30_000}", headers={}
        ),
    ),
    Hostile(
        "a rate of 60 KB in a query",
        lambda: Sent("PUT", f"{STEP}?lr={'1,' * 30_000}1", file({"w": f32(1, 2)}), SAFETENSORS),
    ),
    Hostile(
        "a scheduler of 60 KB of [ in a query",
        lambda: Sent("GET", f"/v1/schedules/custom?base_lr=1&spec={'[' * 60_000}", headers={}),
        frozenset({400, 404, 422}),
    ),
    Hostile(
        "60 KB of if-match",
        lambda: Sent("PATCH", SESSION, b'{"lr":0.2}', {**JSON, "if-match": '"1-1",' * 10_000}),
        frozenset({412, 422}),
    ),
    Hostile(
        "60 KB of an open tag in if-match",
        lambda: Sent("PATCH", SESSION, b'{"lr":0.2}', {**JSON, "if-match": '"' + "1" * 60_000}),
        frozenset({412, 422}),
    ),
    Hostile(
        "60 KB of Accept",
        lambda: Sent("GET", f"{SESSION}/params", headers={"accept": "a/b;q=0.1," * 6_000}),
        frozenset({200, 406}),
    ),
    Hostile(
        "60 KB of Content-Type",
        lambda: Sent("PUT", STEP, b"{}", {"content-type": "a;" * 30_000}),
        frozenset({415}),
    ),
    *(
        Hostile(
            f"the id {text[:32]}",
            lambda text=text: Sent("GET", f"/v1/sessions/{text}", headers={}),  # type: ignore[misc]
            frozenset({404, 422}),
        )
        for text in (
            "%00",
            "a%00b",
            "%2e%2e",
            "%2e%2e%2f%2e%2e",
            "%F0%9F%92%A9",
            "%ED%A0%80",
            "a" * 60_000,
        )
    ),
)
