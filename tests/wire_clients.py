"""The SDK's own transports, blocking and not: a test is written once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple

import httpx
from anyio.from_thread import start_blocking_portal

from gradstep._core import Answer, Body, Request
from gradstep._transports import AsyncDirectTransport, DirectTransport, Server
from gradstep._wires import Place

FORMS = ["blocking", "asynchronous"]


class Fetched(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Fetch = Callable[..., Fetched]
"""Sends a method, perhaps with a body (bytes, or a sequence of them), and returns the answer."""


def loopback(port: int) -> Place:
    """Return a place of this machine."""
    return Place("127.0.0.1", port)


@contextmanager
def fetching(form: str, place: Place, timeout: float | httpx.Timeout = 5.0) -> Iterator[Fetch]:
    """Give a function that sends requests to a place."""
    server = Server(httpx.URL("http://host/"), {}, httpx.Timeout(timeout))
    if form == "blocking":
        with closing(DirectTransport(server, place)) as transport:
            yield partial(_sent, transport.exchange)
        return
    with start_blocking_portal() as portal:
        later = AsyncDirectTransport(server, place)
        try:
            yield partial(_sent, partial(portal.call, later.exchange))
        finally:
            portal.call(later.close)


def _sent(
    exchange: Callable[[Request], Answer],
    method: str,
    content: bytes | Sequence[bytes] | None = None,
) -> Fetched:
    pieces = [content] if isinstance(content, bytes) else content
    body = None if pieces is None else Body("x/y", tuple(map(memoryview, pieces)))
    answer = exchange(Request(method, "/x", body=body))
    return Fetched(answer.status, answer.headers, bytes(answer.body))
