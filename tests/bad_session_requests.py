"""More requests that must be refused: those that create, change and address sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
from bad_requests import EMPTY, EPOCHS, GOOD, JSON, MAX_BODY, PATH, STEP, Bad, _bytes
from session_app import SAFETENSORS, f32, file

NEW = "/v1/sessions/new"
SGD = {"type": "SGD", "lr": 0.1}


def _new(**config: Any) -> dict[str, Any]:
    return {"optimizer": SGD, **config}


def _grouped(**group: Any) -> dict[str, Any]:
    return _new(param_groups=[{"match": ["w"], **group}], params={"w": [1]})


def _scheduled(kind: str, **parameters: Any) -> dict[str, Any]:
    return _new(scheduler={"type": kind, **parameters})


CREATE: dict[str, tuple[object, str]] = {
    "nothing": ({}, "/optimizer"),
    "a list": ([], "object"),
    "an unknown field": (_new(optimiser=SGD), "/optimiser"),
    "an unknown optimizer": (_new(optimizer={"type": "Sgd"}), "/optimizer/type"),
    "no type": (_new(optimizer={"lr": 1}), "/optimizer/type"),
    "an unknown hyperparameter": (_new(optimizer={**SGD, "beta": 0}), "/optimizer/beta"),
    "a negative rate": (_new(optimizer={"type": "SGD", "lr": -0.1}), "/optimizer/lr"),
    "true as a rate": (_new(optimizer={"type": "SGD", "lr": True}), "/optimizer/lr"),
    "an unknown scheduler": (_scheduled("StepLr", step_size=3), "/scheduler/type"),
    "a step size of 0": (_scheduled("StepLR", step_size=0), "/scheduler/step_size"),
    "a misspelt parameter": (_scheduled("StepLR", step_siz=3), "/scheduler/step_siz"),
    "an unknown schedule_on": (_new(schedule_on="batch"), "/schedule_on"),
    "an unknown clip": (_new(clip={"type": "l1", "max_norm": 1}), "/clip/type"),
    "a clip of 0": (_new(clip={"type": "norm", "max_norm": 0}), "/clip/max_norm"),
    "a field too many in clip": (_new(clip={"type": "value", "value": 1, "x": 1}), "/clip/x"),
    "a block without a root": (_new(clip={"type": "block_rms", "threshold": 0}), "/clip/threshold"),
    "an axis in clip": (_new(clip={"type": "adaptive", "axis": 0}), "/clip/axis"),
    "nothing to accumulate": (_new(accumulate={}), "/accumulate/steps"),
    "0 steps to accumulate": (_new(accumulate={"steps": 0}), "/accumulate/steps"),
    "half a step to accumulate": (_new(accumulate={"steps": 1.5}), "/accumulate/steps"),
    "an unknown mode": (_new(accumulate={"steps": 2, "mode": "max"}), "/accumulate/mode"),
    "a word to freeze": (_new(freeze="w"), "/freeze"),
    "an empty pattern to freeze": (_new(freeze=["w", ""]), "/freeze/1"),
    "257 patterns to freeze": (_new(freeze=["*"] * 257), "/freeze"),
    "an unknown policy": (_new(on_nonfinite="ignore"), "/on_nonfinite"),
    "an unknown dtype": (_new(dtype="I64"), "/dtype"),
    "an unknown durability": (_new(durability="eventual"), "/durability"),
    "0 steps to retain": (_new(retain=0), "/retain"),
    "a fraction of steps to retain": (_new(retain=1.5), "/retain"),
    "true as what to retain": (_new(retain=True), "/retain"),
    "null as what to retain": (_new(retain=None), "/retain"),
    "an unknown word to retain": (_new(retain="some"), "/retain"),
    "more to retain than can be counted": (_new(retain=2**53), "/retain"),
    "a group without a pattern": (_new(param_groups=[{"lr": 1}]), "/param_groups/0/match"),
    "a group of no patterns": (_new(param_groups=[{"match": []}]), "/param_groups/0/match"),
    "an empty pattern": (_new(param_groups=[{"match": [""]}]), "/param_groups/0/match/0"),
    "257 groups": (_new(param_groups=[{"match": ["w"]}] * 257), "at most 256 items"),
    "257 patterns of a group": (
        _new(param_groups=[{"match": ["w"] * 257}]),
        "/param_groups/0/match: list should have at most 256 items",
    ),
    "no params at all": (_new(params={}), "/params"),
    "a list of params": (_new(params=[1]), "/params"),
    "a name of 201 characters": (_new(name="n" * 201), "/name"),
    "a number as a name": (_new(name=3), "/name"),
}
CONFIGS: dict[str, tuple[object, str]] = {
    "a pattern that matches nothing": (
        _new(param_groups=[{"match": ["w", "*.bias"]}], params={"w": [1]}),
        "/param_groups/0/match/1",
    ),
    "a pattern that freezes nothing": (_new(freeze=["w", "b*"], params={"w": [1]}), "/freeze/1"),
    "an override of the type": (_grouped(type="SGD"), "/param_groups/0/type"),
    "an unknown override": (_grouped(betas=[0, 0]), "/param_groups/0/betas"),
    "a negative override": (_grouped(lr=-1), "/param_groups/0/lr"),
    "true as an override": (_grouped(weight_decay=True), "/param_groups/0/weight_decay"),
    "an override that clashes": (_grouped(nesterov=True), "/param_groups/0/nesterov"),
}
PARAMS: dict[str, tuple[object, str]] = {
    "a ragged parameter": (_new(params={"w": [[1], [1, 2]]}), "/params/w"),
    "null in a parameter": (_new(params={"w": [None]}), "/params/w"),
    "an empty name": (_new(params={"": [1]}), "/params/"),
    "__metadata__ as a parameter": (_new(params={"__metadata__": [1]}), "/params/__metadata__"),
    "a name of 513 characters": (_new(params={"n" * 513: [1]}), "/params/nnn"),
    "5,000 parameters": (_new(params={f"t{i}": 0 for i in range(5_000)}), "5000 tensors"),
}
PATCH: dict[str, tuple[object, str]] = {
    "a list": ([], "object"),
    "an unknown field": ({"params": {}}, "/params"),
    "a negative rate": ({"lr": -1}, "/lr"),
    "true as a rate": ({"lr": True}, "/lr"),
    "null as a policy": ({"on_nonfinite": None}, "/on_nonfinite"),
    "what cannot change": ({"dtype": "F64"}, "/dtype"),
    "a durability, which cannot change": ({"durability": "relaxed"}, "/durability"),
    "-1 steps to retain": ({"retain": -1}, "/retain"),
    "a text of digits to retain": ({"retain": "3"}, "/retain"),
    "null as what to retain": ({"retain": None}, "/retain"),
    "a schedule that is none": ({"scheduler": {"type": "StepLR"}}, "/scheduler/step_size"),
    "a clip below 0": ({"clip": {"type": "value", "value": -1}}, "/clip/value"),
    "null to freeze": ({"freeze": None}, "/freeze"),
}
CHANGES: dict[str, tuple[object, str]] = {
    "another optimizer": ({"optimizer": {"type": "SGD"}}, "/optimizer/type"),
    "an unknown hyperparameter": ({"optimizer": {"momentum": 1}}, "/optimizer/momentum"),
    "a wrong hyperparameter": ({"optimizer": {"betas": [1, 1]}}, "/optimizer/betas"),
    "amsgrad after a step": ({"optimizer": {"amsgrad": True}}, "/optimizer/amsgrad"),
    "a pattern that freezes nothing": ({"freeze": ["w", "x.?"]}, "/freeze/1"),
    "two rates": ({"lr": 1, "optimizer": {"lr": 2}}, "/lr"),
}


def _table(method: str, path: str, code: str, rows: dict[str, tuple[object, str]]) -> list[Bad]:
    return [
        Bad(f"{method} {path}: {name}", method, path, _bytes(body), 422, code, says)
        for name, (body, says) in rows.items()
    ]


FILES = [
    Bad(f"{path.rpartition('/')[2]}: {name}", "PUT", path, body, 422, code, says, SAFETENSORS)
    for name, path, body, code, says in (
        ("no pattern matches", f"{EMPTY}/params", GOOD, "invalid-config", "/match/0"),
        (
            "F64",
            f"{EMPTY}/params",
            file({"x.bias": np.zeros(2)}),
            "invalid-tensors",
            "/params/x.bias",
        ),
        ("parameters alone", f"{EMPTY}/state", GOOD, "invalid-tensors", "/__metadata__"),
        ("no file", f"{EMPTY}/state", b"", "invalid-tensors", "0 bytes"),
    )
]
EPOCH = [
    *_table(
        "PUT",
        f"{EPOCHS}/epochs/1",
        "invalid-request",
        {
            "an unknown field of an epoch": ({"metrics": 1}, "/metrics"),
            "a string as a metric": ({"metric": "low"}, "/metric"),
            "true as a metric": ({"metric": True}, "/metric"),
        },
    ),
    Bad("epoch 0", "PUT", f"{EPOCHS}/epochs/0", b"", 422, "invalid-request", "/path/e"),
    Bad("an epoch of steps", "PUT", f"{PATH}/epochs/1", b"", 409, "epochs-not-used", "epoch"),
]


def _sent(name: str, status: int, code: str, says: str, **headers: str) -> Bad:
    """Return a good step with bad headers; an empty one is left out."""
    sent = {**JSON, **{k.replace("_", "-"): v for k, v in headers.items()}}
    sent = {name: value for name, value in sent.items() if value}
    return Bad(name, "PUT", STEP, b'{"grads": {"w": [1, 2]}}', status, code, says, sent)


_INVALID = (422, "invalid-request")
HEADERS = [
    _sent("no Content-Type", 415, "unsupported-media-type", "missing", Content_Type=""),
    _sent("a form", 415, "unsupported-media-type", "text/plain", Content_Type="text/plain"),
    _sent("gzip", 415, "unsupported-media-type", "gzip", Content_Encoding="gzip"),
    _sent("Accept: text/html", 406, "not-acceptable", "application/json", Accept="text/html"),
    _sent("generation 2", 409, "generation-mismatch", "generation 1", Gradstep_Generation="2"),
    _sent("generation x", *_INVALID, "/header/", Gradstep_Generation="x"),
    _sent("generation 1.0", *_INVALID, "/header/", Gradstep_Generation="1.0"),
    Bad(
        "wrong If-Match",
        "PATCH",
        PATH,
        b'{"lr": 1}',
        *_INVALID,
        "if-match",
        {**JSON, "If-Match": "7"},
    ),
    Bad(
        "old If-Match",
        "PATCH",
        PATH,
        b'{"lr": 1}',
        412,
        "precondition-failed",
        '"1-2"',
        {**JSON, "If-Match": '"1-1"'},
    ),
    *(
        Bad(
            f"{method} with If-Match: {tags}",
            method,
            PATH,
            b'{"lr": 1}' if method == "PATCH" else b"",
            412,
            "precondition-failed",
            '"1-2"',
            {**JSON, "If-Match": tags},
        )
        for method, tags in (
            ("PATCH", 'W/"1-2"'),
            ("PATCH", '"another-servers"'),
            ("PATCH", '"1-0", "1-1", W/"1-2"'),
            ("PATCH", '"1-0" ,, "a,b",'),
            ("DELETE", 'W/"1-2"'),
        )
    ),
    *(
        Bad(
            f"If-Match: {tags}",
            "PATCH",
            PATH,
            b'{"lr": 1}',
            *_INVALID,
            "if-match",
            {**JSON, "If-Match": tags},
        )
        for tags in ("", "1-2", '"1-2', 'w/"1-2"', '"1-2" "1-1"', '"1-2", *')
    ),
    Bad("If-Match on DELETE", "DELETE", PATH, b"", *_INVALID, "if-match", {"If-Match": "x"}),
    Bad(
        "generation on DELETE",
        "DELETE",
        PATH,
        b"",
        409,
        "generation-mismatch",
        "1",
        {"Gradstep-Generation": "9"},
    ),
    Bad(
        "text as a patch",
        "PATCH",
        PATH,
        b"{}",
        415,
        "unsupported-media-type",
        "text",
        {"Content-Type": "text/x"},
    ),
    Bad(
        "JSON as a state",
        "PUT",
        f"{EMPTY}/state",
        b"{}",
        415,
        "unsupported-media-type",
        "safetensors",
    ),
    *(
        Bad(f"{path} as {accept}", "GET", f"{PATH}/{path}", b"", 406, "not-acceptable", says, sent)
        for path, accept, says in (
            ("state", "application/json", "safetensors alone"),
            ("state", "*/*, application/vnd.safetensors;q=0", "safetensors alone"),
            ("params", "application/json;q=0", "writes application/json"),
        )
        for sent in ({"Accept": accept},)
    ),
    Bad(
        "params as HTML",
        "GET",
        f"{PATH}/params",
        b"",
        406,
        "not-acceptable",
        "json",
        {"Accept": "text/html"},
    ),
]
ADDRESSES = [
    Bad(f"{method} {path[:48]}", method, path, b"", status, code, says, {})
    for method, path, status, code, says in (
        ("GET", "/v1/sessions/other", 404, "session-not-found", "other"),
        ("DELETE", "/v1/sessions/other", 404, "session-not-found", "other"),
        ("GET", "/v1/sessions/other/params", 404, "session-not-found", "other"),
        ("GET", "/v1/sessions/other/history", 404, "session-not-found", "other"),
        ("GET", "/v1/sessions/-a", *_INVALID, "/path/id"),
        ("GET", "/v1/sessions/a%20b", *_INVALID, "/path/id"),
        ("GET", "/v1/sessions/a%0A", *_INVALID, "/path/id"),
        ("GET", "/v1/sessions/a%00", *_INVALID, "/path/id"),
        ("GET", "/v1/sessions/%C3%A9", *_INVALID, "/path/id"),
        ("GET", "/v1/sessions/%2E%2E", *_INVALID, "/path/id"),
        ("GET", f"/v1/sessions/{'a' * 65}", *_INVALID, "/path/id"),
        ("DELETE", "/v1/sessions/s%2Fparams", 405, "method-not-allowed", "DELETE"),
        ("GET", "/v1/sessions/s%2F..%2Fs", 404, "not-found", "/docs"),
        ("GET", "/v1/sessions/s/nothing", 404, "not-found", "/docs"),
        ("GET", "/v1/session", 404, "not-found", "/docs"),
        ("GET", "/v2/sessions", 404, "not-found", "/docs"),
        ("PUT", "/v1/sessions", 405, "method-not-allowed", "PUT"),
        ("POST", PATH, 405, "method-not-allowed", "POST"),
        ("DELETE", STEP, 405, "method-not-allowed", "DELETE"),
        ("PATCH", f"{PATH}/params", 405, "method-not-allowed", "PATCH"),
        ("BREW", PATH, 405, "method-not-allowed", "BREW"),
        ("GET", f"{PATH}/steps/2", 404, "step-not-found", "step 2"),
        ("GET", f"{PATH}/history?limit=0", *_INVALID, "/query/limit"),
        ("GET", f"{PATH}/history?limit=1e3", *_INVALID, "/query/limit"),
        ("GET", f"{PATH}/history?after=-1", *_INVALID, "/query/after"),
        ("GET", f"{PATH}/history?format=xml", *_INVALID, "/query/format"),
        ("GET", f"{PATH}/schedule?steps=0", *_INVALID, "/query/steps"),
        ("GET", f"{PATH}/schedule?steps=100000000", *_INVALID, "/query/steps"),
        ("GET", f"{PATH}/schedule?start=9007199254740991", *_INVALID, "/query/steps"),
        ("GET", f"{PATH}/schedule?max_points=1", *_INVALID, "/query/max_points"),
        ("GET", "/v1/sessions?limit=1001", *_INVALID, "/query/limit"),
        ("GET", "/v1/sessions?prefix=a", *_INVALID, "/query/prefix"),
        ("GET", f"{PATH}?verbose=1", *_INVALID, "/query/verbose"),
        ("GET", f"{PATH}/history?limits=1", *_INVALID, "there are after, format, limit"),
        ("GET", f"{PATH}/schedule?step=1&stop=2", *_INVALID, "(and 1 more)"),
        ("GET", f"{PATH}/steps/1?a/b~=1", *_INVALID, "/query/a~1b~0"),
        ("POST", f"{PATH}/steps?retrun=receipt", *_INVALID, "/query/retrun"),
        ("PUT", f"{EPOCHS}/epochs/1?metric=1", *_INVALID, "/query/metric"),
        ("PUT", f"{EMPTY}/params?dtype=F64", *_INVALID, "/query/dtype"),
        ("PUT", f"{EMPTY}/state?step=1", *_INVALID, "/query/step"),
        ("PUT", "/v1/sessions/new?name=n", *_INVALID, "/query/name"),
        ("DELETE", f"{PATH}?force=true", *_INVALID, "/query/force"),
    )
]
LARGE = [
    Bad(
        f"{name} beyond the limit",
        method,
        path,
        b" " * (MAX_BODY + 1),
        413,
        "body-too-large",
        "1000000",
        headers,
    )
    for name, method, path, headers in (
        ("JSON", "PUT", STEP, JSON),
        ("a file", "PUT", STEP, SAFETENSORS),
        ("a creation", "POST", "/v1/sessions", JSON),
        ("parameters", "PUT", f"{EMPTY}/params", SAFETENSORS),
    )
]
SESSIONS = [
    *_table("PUT", NEW, "invalid-request", CREATE),
    *_table("PUT", NEW, "invalid-config", CONFIGS),
    *_table("POST", "/v1/sessions", "invalid-tensors", PARAMS),
    *_table("PATCH", PATH, "invalid-request", PATCH),
    *_table("PATCH", PATH, "invalid-config", CHANGES),
    *FILES,
    *EPOCH,
    *HEADERS,
    *ADDRESSES,
    *LARGE,
    Bad(
        "params again",
        "PUT",
        f"{PATH}/params",
        file({"w": f32(1, 2)}),
        409,
        "params-conflict",
        "differ",
        SAFETENSORS,
    ),
    Bad("no body to create", "POST", "/v1/sessions", b"", *_INVALID, "JSON body", {}),
    Bad(
        "steps without params",
        "PUT",
        f"{EMPTY}/steps/1",
        GOOD,
        409,
        "params-missing",
        "params",
        SAFETENSORS,
    ),
]
