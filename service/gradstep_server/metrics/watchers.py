"""Who watches requests and sessions, and counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from prometheus_client import Counter, Histogram

from gradstep_server.metrics.families import Families
from gradstep_server.sessions.observer import SnapshotOutcome
from gradstep_server.web.served import Served

_METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})


_Key = tuple[str | None, str, int | None]


@dataclass(frozen=True, slots=True)
class _Kind:
    """The series of requests with the same route, method and status."""

    requests: Counter
    seconds: Histogram


class RequestMetrics:
    """A watcher of requests."""

    def __init__(self, families: Families) -> None:
        self._families = families
        # Looking a series up by its labels costs more than counting in it. There are no more of
        # these than of the series: an unknown method has no entry of its own.
        self._kinds: dict[_Key, _Kind] = {}
        self._phase = cache(families.phase_seconds.labels)

    def began(self) -> None:
        """Count the request as under way."""
        self._families.in_flight.inc()

    def ended(self, served: Served) -> None:
        """Count what was served."""
        families = self._families
        families.in_flight.dec()
        kind = self._kind(served)
        kind.requests.inc()
        kind.seconds.observe(served.seconds)
        families.received.inc(served.received)
        families.sent.inc(served.sent)
        for phase, seconds in served.phases.items():
            self._phase(phase).observe(seconds)

    def _kind(self, served: Served) -> _Kind:
        method = served.method if served.method in _METHODS else "other"
        key = served.route, method, served.status
        found = self._kinds.get(key)
        if found is None:
            route = served.route or "none"
            status = "none" if served.status is None else f"{served.status // 100}xx"
            found = self._kinds[key] = _Kind(
                self._families.requests.labels(route, method, status),
                self._families.request_seconds.labels(route, method),
            )
        return found


class SessionMetrics:
    """An observer of sessions."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def rebuilt(self, entries: int, seconds: float) -> None:
        """Count a state that was rebuilt."""
        self._families.replayed.inc(entries)
        self._families.rebuild_seconds.observe(seconds)

    def evicted(self) -> None:
        """Count a session that was evicted."""
        self._families.evictions.inc()

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """Count a snapshot."""
        self._families.snapshot_seconds.labels(outcome).observe(seconds)
