"""Connections that are kept alive, at a tenth of what a full client costs.

The experiments send hundreds of thousands of small requests from the machine
that also serves them: what the client takes, the service lacks.
"""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

FAILURES = (OSError, http.client.HTTPException)
"""What is raised where the other side is gone, or goes in the middle of something."""

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server has said."""

    status: int
    headers: HTTPMessage
    content: bytes

    def json(self) -> Any:
        """Return the content, read as JSON."""
        return json.loads(self.content)


class Connection:
    """One connection to one server. What is sent now may be answered later."""

    def __init__(self, url: str, patience: float = 60.0) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ask(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and wait for its answer."""
        self.send(method, path, content, headers)
        return self.receive()

    def send(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a request. The answer has to be received before the next one is sent."""
        if self._http.sock is not None and self.answered(0):
            self._http.close()  # it was idle for so long that the server has let go of it
        self._http.request(method, path, content, dict(headers or {}))

    def answered(self, within: float) -> bool:
        """Wait so many seconds for the answer to begin; return whether it has."""
        return bool(select.select([self._http.sock], [], [], within)[0])

    def receive(self) -> Answer:
        """Return the answer to what was sent."""
        response = self._http.getresponse()
        return Answer(response.status, response.headers, response.read())

    def local_port(self) -> int:
        """Return the port of this end; a request must have been sent."""
        port: int = self._http.sock.getsockname()[1]
        return port

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()
