"""A connection beyond the most that a process may have: told so, and closed."""

from __future__ import annotations

import asyncio

_PATIENCE = 2.0
"""Seconds that such a connection has to ask for something, and to read what it is told."""

_MOST = 256
"""Of those that come while there are so many, none is waited for."""


class Surplus(asyncio.Protocol):
    """Answers whatever comes first, and reads on until the client closes or time is over.

    To close at once, with a request on its way, would take the answer back: the
    system resets a connection that is closed before all that came was read.
    """

    def __init__(self, among: set[Surplus], transport: asyncio.Transport, answer: bytes) -> None:
        """Take a connection over from the protocol that it was made for."""
        self._among = among
        self._transport = transport
        self._answer = answer
        transport.set_protocol(self)
        if len(among) >= _MOST:
            transport.write(answer)
            transport.close()
            return
        among.add(self)
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(_PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is
        """Answer once."""
        if self._answer:
            self._transport.write(self._answer)
            self._answer = b""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        """Forget it."""
        if self in self._among:
            self._among.discard(self)
            self._end.cancel()
