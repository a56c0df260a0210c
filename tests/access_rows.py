"""What every route asks of a key, said by hand; and a request for each that a key is good for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import httpx
from fastapi.routing import APIRoute
from key_files import Callers, bearer
from session_app import SAFETENSORS, Service, running
from starlette.routing import Route

from gradstep_server.app import create_app
from gradstep_server.settings import Settings

Access = Literal["public", "stateless", "read", "write", "admin"]
Operation = tuple[str, str]

ROWS: Mapping[Operation, Access] = {
    ("GET", "/"): "public",
    ("GET", "/docs"): "public",
    ("GET", "/docs/{name}"): "public",
    ("GET", "/openapi.json"): "public",
    ("HEAD", "/openapi.json"): "public",
    ("GET", "/livez"): "public",
    ("GET", "/readyz"): "public",
    ("GET", "/version"): "public",
    ("GET", "/metrics"): "admin",
    ("GET", "/v1/schedulers"): "stateless",
    ("GET", "/v1/schedulers/{type}"): "stateless",
    ("GET", "/v1/optimizers"): "stateless",
    ("GET", "/v1/optimizers/{type}"): "stateless",
    ("GET", "/v1/schedules/{type}"): "stateless",
    ("POST", "/v1/schedules"): "stateless",
    ("POST", "/v1/backprop/linear"): "stateless",
    ("GET", "/v1/sessions"): "read",
    ("POST", "/v1/sessions"): "write",
    ("GET", "/v1/sessions/{id}"): "read",
    ("PUT", "/v1/sessions/{id}"): "write",
    ("PATCH", "/v1/sessions/{id}"): "write",
    ("DELETE", "/v1/sessions/{id}"): "admin",
    ("GET", "/v1/sessions/{id}/params"): "read",
    ("PUT", "/v1/sessions/{id}/params"): "write",
    ("GET", "/v1/sessions/{id}/state"): "read",
    ("PUT", "/v1/sessions/{id}/state"): "write",
    ("GET", "/v1/sessions/{id}/steps/{n}"): "read",
    ("PUT", "/v1/sessions/{id}/steps/{n}"): "write",
    ("POST", "/v1/sessions/{id}/steps"): "write",
    ("GET", "/v1/sessions/{id}/epochs/{e}"): "read",
    ("PUT", "/v1/sessions/{id}/epochs/{e}"): "write",
    ("GET", "/v1/sessions/{id}/history"): "read",
    ("GET", "/v1/sessions/{id}/schedule"): "read",
    ("POST", "/v1/sessions/{id}/rewind"): "write",
    ("POST", "/v1/sessions/{id}/fork"): "write",
}
"""What each route asks of a key."""

PARAMS = {"w": [1.0, 2.0]}
CONFIG = {
    "optimizer": {"type": "SGD", "lr": 0.1},
    "scheduler": {"type": "ExponentialLR", "gamma": 0.5},
    "schedule_on": "epoch",
    "params": PARAMS,
}
LINEAR = {"x": [1.0], "y": [2.0], "theta": 0.0, "b": 0.0}
CURVE = {"scheduler": {"type": "StepLR", "step_size": 3}, "base_lr": 0.1, "steps": 5}
BODIES: Mapping[Operation, Any] = {
    ("POST", "/v1/schedules"): CURVE,
    ("POST", "/v1/backprop/linear"): LINEAR,
    ("POST", "/v1/sessions"): CONFIG,
    ("PUT", "/v1/sessions/{id}"): CONFIG,
    ("PATCH", "/v1/sessions/{id}"): {"optimizer": {"lr": 0.2}},
    ("PUT", "/v1/sessions/{id}/params"): {"params": PARAMS},
    ("PUT", "/v1/sessions/{id}/steps/{n}"): {"grads": {"w": [0.1, 0.1]}},
    ("POST", "/v1/sessions/{id}/steps"): {"grads": {"w": [0.1, 0.1]}},
    ("PUT", "/v1/sessions/{id}/epochs/{e}"): {"metric": 0.5},
    ("POST", "/v1/sessions/{id}/rewind"): {"step": 0},
    ("POST", "/v1/sessions/{id}/fork"): {"step": 1},
}
"""What each route is sent, as JSON."""

TYPES = {"schedulers": "StepLR", "schedules": "StepLR", "optimizers": "SGD"}
NUMBERS = itertools.count()
"""For names that no session has yet."""


def operations(routes: Any) -> Iterator[Operation]:
    """Yield every method and address of an application; fail on what is neither."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from operations(route.original_router.routes)
            continue
        assert isinstance(route, Route | APIRoute), f"{route} is no route that the table knows"
        yield from ((method, route.path) for method in route.methods or ())


ALL = sorted(set(operations(create_app(Settings(store="memory://")).routes)))
"""Every operation of the application."""
OF_A_SESSION = [operation for operation in ALL if "{id}" in operation[1]]
"""What names a session."""


def session(service: Service, who: Callers) -> str:
    """Make a session of ours that has taken a step and ended an epoch; return its id."""
    name, ours = f"s{next(NUMBERS)}", bearer(who.keys["admin"])
    path = f"/v1/sessions/{name}"
    for address, body in (
        (path, CONFIG),
        (f"{path}/steps/1", {"grads": {"w": [1.0, 1.0]}}),
        (f"{path}/epochs/1", {"metric": 1.0}),
    ):
        assert service.put(address, json=body, headers=ours).status_code == 201
    return name


def send(service: Service, operation: Operation, name: str, key: str | None) -> httpx.Response:
    """Ask for an operation on a session, as whoever has the key."""
    method, template = operation
    path = template.format(
        id=name,
        n=1 if method == "GET" else 2,
        e=1 if method == "GET" else 2,
        type=TYPES.get(template.split("/")[2] if template.count("/") > 2 else "", ""),
        name="swagger-ui.css",
    )
    if path.startswith("/v1/schedules/"):
        path += "?base_lr=1&step_size=3"
    headers = {} if key is None else bearer(key)
    if operation == ("PUT", "/v1/sessions/{id}/state"):
        return service.put(path, content=state(), headers={**headers, **SAFETENSORS})
    body = BODIES.get(operation)
    options = {} if body is None else {"json": body}
    return service.request(method, path, headers=headers, **options)


@cache
def state() -> bytes:
    """Return the whole state of such a session, as a file."""
    with running() as service:
        path = service.session("s", **CONFIG)
        return service.get(f"{path}/state").content
