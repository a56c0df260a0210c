"""When a request is sent again, and after how long. Nothing here sleeps or sends.

Only what the server recognises as a repetition is repeated: PUT, GET, DELETE,
PATCH and POST with If-Match, and a POST that names what it makes; no other POST.
A step is a PUT to its position.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BASE_SECONDS = 0.25
"""The longest wait before the first retry; it doubles with each."""

MAX_SECONDS = 8.0
"""The longest wait that the SDK chooses by itself."""

PATIENCE = 60.0
"""The longest Retry-After that is waited for; a longer one is the caller's to decide."""

RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})

# Forked workers must not share a sequence, or they would all come back at once.
_jitter = random.SystemRandom()


@dataclass(slots=True)
class Retries:
    """The retries of one call."""

    left: int
    """How many more there may be."""

    taken: int = 0

    def delay(self, status: int | None, asked: float | None) -> float | None:
        """Count a failed attempt; return the seconds to wait, None to give up.

        The wait is drawn between 0 and a bound that doubles ("full jitter"),
        but is no shorter than the server asked for.

        Args:
            status: The status of the answer; None if none came.
            asked: The seconds that Retry-After names.
        """
        final = status is not None and status not in RETRIED_STATUSES
        if final or self.left <= 0 or (asked or 0.0) > PATIENCE:
            return None
        bound = min(MAX_SECONDS, BASE_SECONDS * 2.0**self.taken)
        self.left -= 1
        self.taken += 1
        return max(asked or 0.0, _jitter.uniform(0.0, bound))


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, None where it says nothing readable.

    Args:
        value: Seconds, or a date.
    """
    text = (value or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
