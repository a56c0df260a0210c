"""The OpenAPI document: FastAPI's, with every failure as the problem that it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI

from gradstep_server.errors import GradstepError, InvalidRequest
from gradstep_server.sessions.errors import Busy
from gradstep_server.web import problems
from gradstep_server.web.authentication import is_public, needed_role
from gradstep_server.web.errors import Forbidden, MalformedRequest, TooManyRequests, Unauthenticated
from gradstep_server.web.stateless import is_stateless

_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_FIRST_FAILURE = 400
_SCHEME = "bearer"
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key that `gradstep-server keys create` has printed. Curves, the catalogue "
    "and backpropagation need one only where the service is set so; where there are no keys, "
    "nothing needs one.",
}


def install(app: FastAPI) -> None:
    """Let `app` describe its failures as ``application/problem+json``."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        schema = generate()
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                _describe_keys(method.upper(), path, operation)
                if not is_public(path):
                    _declare(operation["responses"], TooManyRequests, Busy)
                _declare(operation["responses"], MalformedRequest)
                _describe_failures(operation["responses"])
        schema["components"]["securitySchemes"] = {_SCHEME: _BEARER}
        _drop_unused(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


def _describe_keys(method: str, path: str, operation: dict[str, Any]) -> None:
    """Say whether an operation needs a key, of which role, and how it fails without."""
    if is_public(path):
        operation["security"] = []
        return
    optional: list[dict[str, list[str]]] = [{}] if is_stateless(path) else []
    operation["security"] = [*optional, {_SCHEME: []}]
    responses, role = operation["responses"], needed_role(method, path)
    _declare(responses, Unauthenticated)
    if role != "read":  # every key may read
        line = f"`{Forbidden.code}`: {Forbidden.title}; it needs the role `{role}`."
        responses["403"] = {"description": line}


def _declare(responses: dict[str, Any], *classes: type[GradstepError]) -> None:
    """Add failures to those that the route declares."""
    for status, declared in problems.responses(*classes).items():
        lines = [responses.get(str(status), {}).get("description"), declared["description"]]
        responses[str(status)] = {"description": " ".join(filter(None, lines))}


def _describe_failures(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if not status.isdecimal() or int(status) < _FIRST_FAILURE:
            continue
        if "HTTPValidationError" in str(response):
            # FastAPI's own entry, for a route that declares no 422.
            response["description"] = f"`{InvalidRequest.code}`: {InvalidRequest.title}."
        response["content"] = {problems.MEDIA_TYPE: _PROBLEM}


def _drop_unused(schema: dict[str, Any]) -> None:
    """Remove models that nothing refers to: FastAPI's own, and bases of unions."""
    models = schema["components"]["schemas"]
    while True:
        text = orjson.dumps(schema).decode()
        unused = [name for name in models if f'"#/components/schemas/{name}"' not in text]
        if not unused:
            return
        for name in unused:
            del models[name]
