"""Memory for requests under way: what their bodies and answers may take, all together.

Who wants more than there is, is told so before anything is read or changed, so
that many large requests at once cost refusals and not the process.
"""

from __future__ import annotations

import threading

from gradstep_server.sessions.errors import Busy


class Room:
    """So many bytes. It is counted here; the memory itself is someone else's."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        # Reentrant: what the collector frees gives its room back, at any point.
        self._lock = threading.RLock()

    @property
    def taken(self) -> int:
        """How many bytes are in use."""
        return self._taken

    def take(self, nbytes: int, share: float = 1.0) -> None:
        """Count bytes as taken.

        Args:
            nbytes: how many.
            share: the part of all room that may be taken after this.

        Raises:
            Busy: there is not so much room at present.
        """
        with self._lock:
            if self._taken + nbytes > self.limit * share:
                raise Busy(
                    f"{nbytes} bytes more do not fit beside the {self._taken} that requests under "
                    "way take; send it again in a moment"
                )
            self._taken += nbytes

    def give_back(self, nbytes: int) -> None:
        """Count bytes as free again."""
        with self._lock:
            self._taken -= nbytes
