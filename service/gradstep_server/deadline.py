"""A process that was told to end is gone in time, whatever it is at.

A thread that computes cannot be stopped, nor one that waits for a disk or a
database; and Python waits for its threads before it ends. So another one ends
the process when the time is over, with a line that says what was still at work.
Nothing that was acknowledged is lost by that: it was handed to the store
before, and what relaxed sessions have not synced is safe from the end of a
process, though not from the loss of power.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import NoReturn

END_WITHIN = 9.5
"""Seconds after which a process that was told to end is ended."""

_SPARE = 0.3
"""Seconds after which it is ended even if no thread of Python's can run or log."""

_log = logging.getLogger(__name__)


class Deadline:
    """When this process ends, at the latest."""

    def __init__(self) -> None:
        # Its `put` may interrupt another one, as signal handlers do; no lock would allow that.
        self._set: SimpleQueue[float] = SimpleQueue()
        threading.Thread(target=self._await, name="gradstep-deadline", daemon=True).start()

    def set(self, seconds: float) -> None:
        """Let the process last so long at most, or less if that was said before."""
        self._set.put(monotonic() + seconds)

    @contextmanager
    def upon(self, number: signal.Signals, seconds: float) -> Iterator[None]:
        """Set it when a signal comes within the block, and pass the signal on.

        Its handler must be in place.
        """
        before = signal.getsignal(number)
        if not callable(before):
            yield
            return

        def begin(number: int, frame: FrameType | None) -> None:
            self.set(seconds)
            before(number, frame)

        signal.signal(number, begin)
        try:
            yield
        finally:
            signal.signal(number, before)

    def _await(self) -> None:
        end = self._set.get()
        with Path(os.devnull).open("wb") as nowhere:
            while (left := end - monotonic()) > 0:
                # A thread of its own, of C alone. What it would say could block it.
                faulthandler.dump_traceback_later(left + _SPARE, exit=True, file=nowhere)
                with suppress(Empty):
                    end = min(end, self._set.get(timeout=left))
            _end()


def _end() -> NoReturn:
    """End this process, and those that it has started."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    _log.critical(
        "the process was told to end and has not: it is ended; still at work: %s",
        "; ".join(_at_work()) or "nothing",
    )
    for child in children:
        child.join(_SPARE / 2)
    os._exit(1)


def _at_work() -> Iterator[str]:
    """Say where each thread is that the end waits for."""
    frames = sys._current_frames()  # noqa: SLF001 - documented, and there is no other way
    for thread in threading.enumerate():
        if thread.daemon or thread.ident not in frames:
            continue
        frame = frames[thread.ident]
        file = Path(frame.f_code.co_filename).name
        yield f"{thread.name} in {frame.f_code.co_name} ({file}:{frame.f_lineno})"
