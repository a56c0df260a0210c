"""The OpenAPI document: FastAPI's, with every failure as the problem that it is."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI

from gradstep_server.errors import InvalidRequest
from gradstep_server.web import problems

_PROBLEM = {"schema": {"$ref": "#/components/schemas/Problem"}}
_FIRST_FAILURE = 400


def install(app: FastAPI) -> None:
    """Let `app` describe its failures as ``application/problem+json``."""
    generate = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        schema = generate()
        for operations in schema["paths"].values():
            for operation in operations.values():
                _describe_failures(operation["responses"])
        _drop_unused(schema)
        return schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way


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
