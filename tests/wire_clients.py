"""The SDK's own transports, blocking and not, under httpx's clients: a test is written once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal

from gradstep._transports import AsyncTransport, Transport
from gradstep._wires import Place

FORMS = ["blocking", "asynchronous"]

Fetch = Callable[..., httpx.Response]
"""Sends a method, perhaps with content (bytes, or an iterator of them) and httpx's options, and
returns the answer, read to its end."""


def loopback(port: int) -> Place:
    """Return a place of this machine."""
    return Place("127.0.0.1", port)


@contextmanager
def fetching(form: str, place: Place) -> Iterator[Fetch]:
    """Give a function that sends requests to a place."""
    with blocking(place) if form == "blocking" else asynchronous(place) as fetch:
        yield fetch


@contextmanager
def blocking(place: Place) -> Iterator[Fetch]:
    """Give a function that sends requests by the blocking transport."""
    with httpx.Client(transport=Transport(place)) as client:

        def fetch(method: str, content: Any = None, **options: Any) -> httpx.Response:
            return client.request(method, "http://host/x", content=content, **options)

        yield fetch


@contextmanager
def asynchronous(place: Place) -> Iterator[Fetch]:
    """Give a function that sends requests by the asynchronous transport, all in one event loop."""
    client = httpx.AsyncClient(transport=AsyncTransport(place))

    async def send(method: str, content: Any, options: Any) -> httpx.Response:
        if isinstance(content, Iterator):
            content = _later(content)
        return await client.request(method, "http://host/x", content=content, **options)

    with start_blocking_portal() as portal:

        def fetch(method: str, content: Any = None, **options: Any) -> httpx.Response:
            answer: httpx.Response = portal.call(send, method, content, options)
            return answer

        yield fetch
        portal.call(client.aclose)


async def _later(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
