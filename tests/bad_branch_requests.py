"""Requests that must be refused: those that go back, fork, or look at the past."""

from __future__ import annotations

from bad_requests import EMPTY, JSON, PATH, Bad, _rows

_INVALID = (422, "invalid-request")
_UNKNOWN_STEPS: dict[str, tuple[object, str]] = {
    "a step below 0": ({"step": -1}, "/step"),
    "a step beyond 2^53": ({"step": 2**53}, "/step"),
    "a text as a step": ({"step": "1"}, "/step"),
    "a fraction as a step": ({"step": 0.5}, "/step"),
    "a float as a step": ({"step": 1.0}, "/step"),
    "true as a step": ({"step": True}, "/step"),
    "a list": ([1], "object"),
    "null": (None, "object"),
}
_REWIND = {
    **_UNKNOWN_STEPS,
    "no step": ({}, "/step"),
    "null as a step": ({"step": None}, "/step"),
    "an unknown field": ({"step": 1, "steps": 1}, "/steps"),
    "a generation in the body": ({"step": 1, "generation": 1}, "/generation"),
}
_FORK = {
    **_UNKNOWN_STEPS,
    "an unknown field": ({"at": 1}, "/at"),
    "an empty id": ({"id": ""}, "/id"),
    "a number as an id": ({"id": 7}, "/id"),
    "a slash in an id": ({"id": "a/b"}, "/id"),
    "a newline behind an id": ({"id": "a\n"}, "/id"),
    "a dot before an id": ({"id": ".a"}, "/id"),
    "an id of 65 characters": ({"id": "a" * 65}, "/id"),
    "a name of 201 characters": ({"name": "n" * 201}, "/name"),
    "a negative rate": ({"lr": -1}, "/lr"),
    "null as a rate": ({"lr": None}, "/lr"),
    "true as a rate": ({"lr": True}, "/lr"),
    "null as an optimizer": ({"optimizer": None}, "/optimizer"),
    "a text as an optimizer": ({"optimizer": "SGD"}, "/optimizer"),
    "a schedule that is none": ({"scheduler": {"type": "StepLR"}}, "/scheduler/step_size"),
    "an unknown scheduler": ({"scheduler": {"type": "StepLr"}}, "/scheduler/type"),
    "a clip below 0": ({"clip": {"type": "value", "value": -1}}, "/clip/value"),
    "an unknown policy": ({"on_nonfinite": "ignore"}, "/on_nonfinite"),
    "null as a policy": ({"on_nonfinite": None}, "/on_nonfinite"),
    "an unknown durability": ({"durability": "eventual"}, "/durability"),
    "null as a durability": ({"durability": None}, "/durability"),
    "0 steps to retain": ({"retain": 0}, "/retain"),
    "an unknown word to retain": ({"retain": "some"}, "/retain"),
    "a dtype": ({"dtype": "F64"}, "/dtype"),
    "other params": ({"params": {"w": [1]}}, "/params"),
    "other groups": ({"param_groups": []}, "/param_groups"),
}
_CHANGES: dict[str, tuple[object, str]] = {
    "another optimizer": ({"optimizer": {"type": "SGD"}}, "/optimizer/type"),
    "an unknown hyperparameter": ({"optimizer": {"momentum": 1}}, "/optimizer/momentum"),
    "a wrong hyperparameter": ({"optimizer": {"betas": [1, 1]}}, "/optimizer/betas"),
    "amsgrad after a step": ({"step": 1, "optimizer": {"amsgrad": True}}, "/optimizer/amsgrad"),
    "two rates": ({"lr": 1, "optimizer": {"lr": 2}}, "/lr"),
}


def _post(path: str, body: bytes, status: int, code: str, says: str, **headers: str) -> Bad:
    """Return a POST to a session that fails for more than the form of its body."""
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    told = " ".join(headers.values())
    name = f"POST {path} {body[:24].decode()} {told}"
    return Bad(name, "POST", path, body, status, code, says, {k: v for k, v in sent.items() if v})


_BACK = b'{"step": 0}'
_AGAIN = b'{"id": "again"}'
_ELSEWHERE = [
    _post(f"{PATH}/rewind", b'{"step": 2}', 404, "step-not-found", "2"),
    _post(f"{PATH}/fork", b'{"id": "again", "step": 2}', 404, "step-not-found", "2"),
    _post(f"{EMPTY}/rewind", b'{"step": 1}', 404, "step-not-found", "1"),
    _post("/v1/sessions/other/rewind", _BACK, 404, "session-not-found", "other"),
    _post("/v1/sessions/other/fork", _AGAIN, 404, "session-not-found", "other"),
    _post(f"{PATH}/fork", b'{"id": "s"}', 409, "session-conflict", "s"),
    _post(f"{PATH}/fork", b'{"id": "empty"}', 409, "session-conflict", "empty"),
    _post(f"{PATH}/rewind", _BACK, 409, "generation-mismatch", "1", Gradstep_Generation="2"),
    _post(f"{PATH}/fork", _AGAIN, 409, "generation-mismatch", "1", Gradstep_Generation="2"),
    _post(f"{PATH}/rewind", _BACK, 412, "precondition-failed", '"1-2"', If_Match='"1-1"'),
    _post(f"{PATH}/rewind", _BACK, 412, "precondition-failed", '"1-2"', If_Match='W/"1-2"'),
    _post(f"{PATH}/rewind", _BACK, *_INVALID, "if-match", If_Match="7"),
    _post(f"{PATH}/rewind", _BACK, *_INVALID, "/header/", Gradstep_Generation="x"),
    _post(f"{PATH}/rewind", b"", *_INVALID, "JSON body"),
    _post(f"{PATH}/fork", b"", *_INVALID, "JSON body"),
    _post(f"{PATH}/rewind", b'{"step": 0', 400, "malformed-body", "byte"),
    _post(f"{PATH}/fork", b'{"step": NaN}', 400, "malformed-body", "byte"),
    _post(f"{PATH}/rewind?step=0", _BACK, *_INVALID, "/query/step"),
    _post(f"{PATH}/fork?id=again", _AGAIN, *_INVALID, "/query/id"),
    _post(
        f"{PATH}/rewind", _BACK, 415, "unsupported-media-type", "text", Content_Type="text/plain"
    ),
    _post(f"{PATH}/fork", _AGAIN, 415, "unsupported-media-type", "missing", Content_Type=""),
]
_PAST = [
    Bad(f"GET {path}", "GET", path, b"", status, code, says, {})
    for part in ("params", "state")
    for query, status, code, says in (
        ("step=2", 404, "step-not-found", "2"),
        ("step=9007199254740991", 404, "step-not-found", "9007199254740991"),
        ("step=9007199254740992", *_INVALID, "/query/step"),
        ("step=-1", *_INVALID, "/query/step"),
        ("step=x", *_INVALID, "/query/step"),
        ("step=", *_INVALID, "/query/step"),
        ("step=1.0", *_INVALID, "/query/step"),
        ("step=%201", *_INVALID, "/query/step"),
        ("step=1_0", *_INVALID, "/query/step"),
        ("steps=1", *_INVALID, "/query/steps"),
    )
    for path in (f"{PATH}/{part}?{query}",)
]
BRANCHES = [
    *_rows("POST", f"{PATH}/rewind", *_INVALID, _REWIND),
    *_rows("POST", f"{PATH}/fork", *_INVALID, _FORK),
    *_rows("POST", f"{PATH}/fork", 422, "invalid-config", _CHANGES),
    *_ELSEWHERE,
    *_PAST,
]
