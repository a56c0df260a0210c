"""The head of an answer goes out with the first piece of its body.

uvicorn writes each by itself, and event loops hand at once to the system what is
written: two calls for an answer of a few kilobytes, and a client that wakes up
twice. ASGI lets a server wait for the body before it sends a head.
"""

from __future__ import annotations

import asyncio


class OneWrite:
    """The transport of one answer, as much of it as uvicorn's cycle of a request uses."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes | memoryview) -> None:
        """Hold the first piece, which is the head, until the second comes."""
        if self._begun:
            self._transport.write(data)
        elif self._head is None:
            self._head = bytes(data)
        else:
            self._begun = True
            self._transport.writelines((self._head, data))

    def flush(self) -> None:
        """Send the head of an answer that has no body."""
        if self._head is not None and not self._begun:
            self.write(b"")

    def close(self) -> None:
        """Close the connection when everything is sent."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether the connection is being closed."""
        return self._transport.is_closing()
