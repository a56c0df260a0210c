"""Connections beyond the most that a process may have: told so, and closed.

Only a probe is answered: a process that is busy lives, and must not be restarted for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from gradstep_server.web.probes import is_probe

_PATIENCE = 2.0
"""Seconds that such a connection has to ask for something, and to read what it is told."""

_MOST = 256
"""While there are so many, each that comes drives out the oldest."""

_LARGEST_HEAD = 8192
"""Bytes that the head of a probe may have."""


@dataclass(slots=True)
class Crowd:
    """The surplus connections of a process."""

    waiting: dict[Surplus, None] = field(default_factory=dict)
    """Those that were not lost yet, the oldest first."""

    turned_away: int = 0
    """How many were not served; whoever reports it sets it back."""


class Surplus(asyncio.Protocol):
    """Waits for what comes first: hands a probe on, answers anything else with a refusal.

    Then it reads on until the client closes or time is over. To close at once, with a request on
    its way, would take the answer back: the system resets a connection that is closed
    before all that came was read.
    """

    def __init__(
        self,
        crowd: Crowd,
        transport: asyncio.Transport,
        refusal: Callable[[], bytes],
        serve: Callable[[bytes], bool],
    ) -> None:
        """Take a connection over from the protocol that it was made for.

        Args:
            crowd: those that it joins.
            transport: its own.
            refusal: returns what it is told.
            serve: given the whole head of a probe and what came after it, takes the connection
                back to serve it; returns False if that cannot be done.
        """
        self._crowd = crowd
        self._transport = transport
        self._refusal = refusal
        self._serve = serve
        self._came = b""
        self._is_told = False
        transport.set_protocol(self)
        if len(crowd.waiting) >= _MOST:
            next(iter(crowd.waiting))._turn_out()  # noqa: SLF001 - of this class
        crowd.waiting[self] = None
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(_PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Answer once it is clear what is asked."""
        if self._is_told:
            return
        self._came += data
        line, has_line, _ = self._came.partition(b"\r\n")
        is_short = len(self._came) <= _LARGEST_HEAD
        if is_short and (not has_line or is_probe(line)):
            if b"\r\n\r\n" not in self._came:
                return
            if self._serve(self._came):
                self._leave()
                return
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        """Forget it."""
        if not self._is_told:
            self._crowd.turned_away += 1
        self._leave()

    def _tell(self) -> None:
        self._is_told = True
        self._came = b""
        self._crowd.turned_away += 1
        self._transport.write(self._refusal())

    def _turn_out(self) -> None:
        """Make room for another; the time to be gone goes on."""
        del self._crowd.waiting[self]
        if not self._is_told:
            self._tell()
        self._transport.close()

    def _leave(self) -> None:
        self._crowd.waiting.pop(self, None)
        self._end.cancel()
