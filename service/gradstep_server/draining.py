"""SIGTERM: the service says that it is draining, and ends a little later."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Draining:
    """Whether the service was told to end, and how long it goes on then."""

    def __init__(self, seconds: float) -> None:
        self.has_begun = False
        self._seconds = seconds

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Notice SIGTERM in the block, and pass it on to the server when the time is over.

        The server's own handler must be in place. Where there is none, as in tests, nothing is
        noticed: there the signal ends the process.
        """
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        if not is_main or not callable(before):
            yield
            return
        loop = asyncio.get_running_loop()

        def begin(number: int, frame: FrameType | None) -> None:
            if self.has_begun or not self._seconds:
                self.has_begun = True
                before(number, frame)
                return
            self.has_begun = True
            loop.call_soon_threadsafe(loop.call_later, self._seconds, before, number, frame)

        signal.signal(signal.SIGTERM, begin)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
