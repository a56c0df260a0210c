"""The whole application in this process, called as a server calls it, and nothing around it."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI

from gradstep_server.app import create_app
from gradstep_server.settings import Settings
from gradstep_server.web.problems import Problem

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Sent:
    """A request, as its bytes are on the wire."""

    method: str
    target: str
    """Path and query, percent-encoded."""

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    """Of the processor, in all threads."""


class Direct:
    """The application, and the loop that it runs in."""

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self._app = app
        self._runner = runner

    def send(self, sent: Sent) -> Answer:
        """Send a request, and return the answer."""
        return self._runner.run(self._call(sent))

    def peak(self, sent: Sent) -> int:
        """Return how many bytes more than before Python's objects take at most in a request."""
        tracemalloc.start()
        try:
            self.send(sent)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async def _call(self, sent: Sent) -> Answer:
        messages: list[dict[str, Any]] = []
        given = False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": sent.body, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = _scope(sent)
        began = time.process_time()
        await self._app(scope, receive, send)
        seconds = time.process_time() - began
        start, *parts = messages
        headers = {name.decode("latin-1").lower(): text for name, text in start["headers"]}
        return Answer(
            start["status"],
            {name: text.decode("latin-1") for name, text in headers.items()},
            b"".join(part.get("body", b"") for part in parts),
            seconds,
        )


@contextmanager
def served(**settings: Any) -> Iterator[Direct]:
    """Run an application with a store in memory as long as the block lasts."""
    app = create_app(Settings(**{"store": "memory://", "threads": 1, **settings}))
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(_entered(lifespan))
        try:
            yield Direct(app, runner)
        finally:
            runner.run(_left(lifespan))


def check(answer: Answer) -> None:
    """Raise unless an answer is a success, or a refusal in the form that is promised.

    Raises:
        AssertionError: it is a 5xx, or no problem document.
    """
    assert answer.status < 500, f"{answer.status}: {answer.body[:300]!r}"
    if answer.status < 400:
        return
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    problem = Problem.model_validate(json.loads(answer.body))
    assert problem.status == answer.status
    assert problem.type == f"urn:gradstep:problem:{problem.code}"
    assert problem.detail
    assert problem.request_id == answer.headers["x-request-id"] != ""


def _scope(sent: Sent) -> dict[str, Any]:
    path, _, query = sent.target.partition("?")
    length = {"content-length": str(len(sent.body))} if sent.body else {}
    headers = {"host": "test", **length, **sent.headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), text.encode("latin-1"))
            for name, text in headers.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "state": {},
    }


async def _entered(lifespan: Any) -> None:
    await lifespan.__aenter__()


async def _left(lifespan: Any) -> None:
    await lifespan.__aexit__(None, None, None)
