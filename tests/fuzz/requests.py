"""Whole requests to the whole application, each almost right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from crash.findings import Finding, evidence, scaled
from fuzz.direct import JSON, Answer, Direct, Sent, check, served
from fuzz.files import allowed_bytes, allowed_seconds, made
from fuzz.mutation import SCRAPS, VALUES, changed, damaged
from session_app import SAFETENSORS, f32, file

from gradstep_server.optimizers import OPTIMIZERS
from gradstep_server.schedulers import SCHEDULERS

CASES = 50_000
ROUND = 2_500
"""Cases after which another application is started, so that a failure is soon found again."""

SEED = 20_261_126
WITNESS = "/v1/sessions/witness"
CONFIG: dict[str, Any] = {
    "optimizer": {"type": "AdamW", "lr": 0.01},
    "params": {"w": [1.0, 2.0], "m.bias": [[1.0, 2.0], [3.0, 4.0]]},
    "param_groups": [{"match": ["*.bias"], "weight_decay": 0}],
    "scheduler": {"type": "StepLR", "step_size": 3},
}
GRADS = {"grads": {"w": [0.1, -0.2], "m.bias": [[1, 2], [3, 4]]}, "loss": 0.31, "lr": 0.1}
BACKPROP = {"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0], "theta": 0.5, "b": 0.0, "l2": 0.01}
STEP_FILE = file({"w": f32(1, 2), "m.bias": f32(1, 2, 3, 4).reshape(2, 2)})
QUERIES: Mapping[str, tuple[str, ...]] = {
    "steps": ("loss=0.5", "lr=0.1", "lr=0.1,0.2", "return=receipt", "dtype=F16"),
    "history": ("after=0", "limit=10", "format=csv"),
    "schedule": ("start=0", "steps=100", "stride=3", "max_points=20", "format=svg"),
    "curve": ("base_lr=0.1", "step_size=3", "gamma=0.5", "steps=100", "unit=epoch", "format=rows"),
    "read": ("step=0", "dtype=F16"),
}
ODD = (
    "",
    "-1",
    "1.0",
    "NaN",
    "inf",
    "1e400",
    "9" * 5_000,
    "%00",
    "%ff",
    "%ED%A0%80",
    "[",
    "[]",
    "a" * 900,
)
"""Values in a query, as they are on the wire."""

HEADERS: Mapping[str, tuple[str, ...]] = {
    "content-type": (
        "application/json",
        "text/plain",
        "",
        "a/b;" * 50,
        "\xff",
        "application/x+json",
    ),
    "content-encoding": ("gzip", "identity", "\xff"),
    "accept": ("*/*", "application/json", "application/*;q=0", ";;;", "\xff", "a/b," * 500),
    "if-match": ("*", '"1-0"', 'W/"1-1"', '"', "\xff", '"' + "9" * 300 + '-1"', '"1-1",' * 90),
    "if-none-match": ("*", '"1-0"', "\xff"),
    "gradstep-generation": ("1", "0", "-1", "9" * 400, "x", "\xb2"),
    "authorization": ("Bearer x", "Basic \xff", ""),
    "x-request-id": ("a", "\xff", "x" * 3_000, ""),
    "origin": ("https://a.example", "null", "\xff"),
}


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Send requests; raise at the first that is answered otherwise than it must be."""
    cases, statuses = scaled(CASES, scale), dict.fromkeys((2, 3, 4), 0)
    slowest, done = 0.0, 0
    with evidence("requests") as folder:
        while done < cases:
            with served(max_points=10_000) as direct:
                state = _started(direct)
                for case in range(done, min(done + ROUND, cases)):
                    sent = drawn(Random(SEED + case), state)
                    try:
                        answer = _tried(direct, sent, measured=case % 100 == 0)
                    except Exception as error:
                        _keep(folder, case, sent)
                        raise AssertionError(f"case {case}: {error!r}, {sent}"[:2_000]) from error
                    statuses[answer.status // 100] += 1
                    slowest = max(slowest, answer.seconds)
                    if case % 100 == 0:
                        progress(case, cases)
            done += ROUND
    return [
        Finding(
            "D5",
            "fuzzed requests",
            f"{cases:,} requests to the whole application, with bodies, queries, paths and headers "
            "changed from right ones: to sessions, steps, epochs, forks, curves, backpropagation",
            f"0 × 5xx; {statuses[2]:,} taken, {statuses[4]:,} refused, each by a whole problem, "
            "and the session the same after each refusal; none took more than 50 ms, and 20 ms "
            f"for each MB, of processor time (at most {slowest * 1e3:.0f} ms), or 1 MB of memory "
            "and 40 times its size",
        )
    ]


def drawn(random: Random, state: bytes) -> Sent:
    """Draw a request.

    Args:
        random: what decides.
        state: a session's whole state, to be sent back changed.
    """
    kind = random.choice(list(_KINDS))
    method, path, body, query = _KINDS[kind](random)
    headers = dict(JSON) if body is not None else {}
    content = b"" if body is None else changed(random, body)
    if kind in _FILES and random.random() < 0.5:
        headers, content = dict(SAFETENSORS), _file(random, kind, state)
    elif body is not None and random.random() < 0.3:
        content = damaged(random, json.dumps(body).encode())
    if query and random.random() < 0.5:
        path += "?" + _query(random, QUERIES[query])
    if random.random() < 0.15:
        name = random.choice(list(HEADERS))
        headers[name] = random.choice(HEADERS[name])
    if random.random() < 0.03:
        method = random.choice(("GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"))
        if method == "DELETE" and path.partition("?")[0] == WITNESS:
            path = "/v1/sessions/none"
    return Sent(method, path, content, headers)


Made = tuple[str, str, Any, str]
"""Method, path, body and the kind of query."""


def _kinds() -> Mapping[str, Callable[[Random], Made]]:
    return {
        "step": lambda r: ("PUT", f"{WITNESS}/steps/{_number(r)}", GRADS, "steps"),
        "next": lambda r: ("POST", f"{_id(r)}/steps", GRADS, "steps"),
        "params": lambda r: ("PUT", f"{_id(r)}/params", {"params": CONFIG["params"]}, ""),
        "state": lambda r: ("PUT", f"{_id(r)}/state", {}, ""),
        "create": lambda r: ("POST", "/v1/sessions", _config(r), ""),
        "name": lambda r: ("PUT", _id(r), _config(r), ""),
        "patch": lambda r: (
            "PATCH",
            _id(r),
            {"lr": 0.5, "optimizer": {"lr": 1}, "freeze": ["w"]},
            "",
        ),
        "fork": lambda r: ("POST", f"{_id(r)}/fork", {"id": "f", "step": 0, "lr": 0.1}, ""),
        "rewind": lambda r: ("POST", f"{_id(r)}/rewind", {"step": 0}, ""),
        "epoch": lambda r: ("PUT", f"/v1/sessions/epochs/epochs/{_number(r)}", {"metric": 0.5}, ""),
        "curve": lambda r: ("POST", "/v1/schedules", _curve(r), ""),
        "named": lambda r: ("GET", f"/v1/schedules/{r.choice(list(SCHEDULERS))}", None, "curve"),
        "backprop": lambda _: ("POST", "/v1/backprop/linear", BACKPROP, ""),
        "history": lambda r: ("GET", f"{_id(r)}/history", None, "history"),
        "schedule": lambda r: ("GET", f"{_id(r)}/schedule", None, "schedule"),
        "read": lambda r: ("GET", f"{_id(r)}/{r.choice(('params', 'state'))}", None, "read"),
        "catalogue": lambda r: (
            "GET",
            f"/v1/{r.choice(('optimizers', 'schedulers'))}/{_text(r)}",
            None,
            "",
        ),
    }


_FILES = {"step", "next", "params", "state"}
_KINDS = _kinds()


def _id(random: Random) -> str:
    """Draw a session: mostly one that there is."""
    names = ("witness", "witness", "witness", "empty", "epochs", "new", "f")
    return f"/v1/sessions/{_text(random) if random.random() < 0.1 else random.choice(names)}"


def _number(random: Random) -> str:
    return random.choice(("1", "2", "3", "4", "5", "0", "-1", str(2**53), "9" * 50, "%00", "1.0"))


def _text(random: Random) -> str:
    """Draw a part of a path, as it is on the wire."""
    made = (
        "%00",
        "a%00b",
        "%2e%2e",
        "..",
        ".",
        "%2F",
        "%ED%A0%80",
        "%ff",
        "a" * 3_000,
        "a b",
        "💩",
    )
    return quote(random.choice(made), safe="%")


def _config(random: Random) -> dict[str, Any]:
    kind = random.choice(list(OPTIMIZERS.values()))
    return {**CONFIG, "optimizer": {"type": kind.__name__, **random.choice(kind.examples)}}


def _curve(random: Random) -> dict[str, Any]:
    kind = random.choice(list(SCHEDULERS.values()))
    scheduler = {"type": kind.__name__, **random.choice(kind.examples)}
    return {"scheduler": scheduler, "base_lr": 0.1, "steps": 100, "start": 3, "stride": 1}


def _file(random: Random, kind: str, state: bytes) -> bytes:
    if random.random() < 0.3:
        return made(random)
    right = state if kind == "state" else STEP_FILE
    return damaged(random, right) if random.random() < 0.9 else right


def _query(random: Random, known: tuple[str, ...]) -> str:
    pairs = random.sample(known, random.randrange(1, len(known) + 1))
    if random.random() < 0.6:
        at = random.randrange(len(pairs))
        name = pairs[at].partition("=")[0]
        odd = (*ODD, *(quote(json.dumps(value)) for value in VALUES), *map(quote, SCRAPS))
        pairs[at] = f"{name}={random.choice(odd)}"
    if random.random() < 0.1:
        pairs.append(random.choice((pairs[0], "x=1", "=", "&&", "%00=1", "%ff", "spec={}")))
    return "&".join(pairs)


def _started(direct: Direct) -> bytes:
    """Create the sessions that requests go to; return the state of one."""
    epochs = {"optimizer": CONFIG["optimizer"], "schedule_on": "epoch", "params": {"w": [1.0]}}
    for name, config in (
        ("witness", CONFIG),
        ("epochs", {**epochs, "scheduler": {"type": "ReduceLROnPlateau"}}),
        ("empty", {"optimizer": CONFIG["optimizer"]}),
    ):
        body = json.dumps(config).encode()
        assert direct.send(Sent("PUT", f"/v1/sessions/{name}", body)).status == 201
    for n in (1, 2):
        body = json.dumps(GRADS).encode()
        assert direct.send(Sent("PUT", f"{WITNESS}/steps/{n}", body)).status == 201
    return direct.send(Sent("GET", f"{WITNESS}/state", headers={})).body


def _tried(direct: Direct, sent: Sent, *, measured: bool) -> Answer:
    """Send a request, and raise unless all that is promised of its answer holds."""
    before = _version(direct)
    answer = direct.send(sent)
    if sent.method != "HEAD":
        check(answer)
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert _version(direct) == before, "a refused request has changed the session"
    size = max(len(sent.body), len(answer.body))
    for _ in range(3):  # an outlier is measured again: noise only adds
        if answer.seconds <= allowed_seconds(size):
            break
        answer = direct.send(sent)
    assert answer.seconds <= allowed_seconds(size), f"{answer.seconds * 1e3:.0f} ms"
    if measured:
        peak = min(direct.peak(sent) for _ in range(2))
        assert peak <= allowed_bytes(size), f"{peak} bytes for {size}"
    return answer


def _version(direct: Direct) -> str:
    return direct.send(Sent("GET", WITNESS, headers={})).headers["etag"]


def _keep(folder: Path, case: int, sent: Sent) -> None:
    (folder / f"{case}.body").write_bytes(sent.body)
    (folder / f"{case}.txt").write_text(
        f"drawn(Random({SEED + case})) in the round of {ROUND} cases from {case // ROUND * ROUND}\n"
        f"{sent.method} {sent.target}\n{dict(sent.headers)!r}\n"
    )
