"""SIGTERM: the service says that it is draining, and ends a little later."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradstep_server.deadline import END_WITHIN, Deadline


class Draining:
    """Whether the service was told to end, and how long it goes on then."""

    def __init__(self, seconds: float) -> None:
        self.has_begun = False
        self.may_wait = False
        """Whether there is anything to go on with: not while it starts."""

        self._seconds = seconds

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Notice SIGTERM in the block, and pass it on to the server when the time is over.

        From then on, and from SIGINT on, the process has its time to end, also
        when the block has been left. The server's own handlers must be in place. Where there are
        none, as in tests, nothing is noticed: there the signal ends the process.
        """
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        if not is_main or not callable(before):
            yield
            return
        loop = asyncio.get_running_loop()
        deadline = Deadline()

        def begin(number: int, frame: FrameType | None) -> None:
            waits = self._seconds if self.may_wait and not self.has_begun else 0
            self.has_begun = True
            deadline.set(waits + END_WITHIN)
            if waits:
                loop.call_soon_threadsafe(loop.call_later, waits, before, number, frame)
            else:
                before(number, frame)

        with deadline.upon(signal.SIGINT, END_WITHIN):
            signal.signal(signal.SIGTERM, begin)
            try:
                yield
            finally:
                signal.signal(signal.SIGTERM, before)
