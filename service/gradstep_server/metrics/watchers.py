"""Who watches requests and sessions, and counts."""

from __future__ import annotations

from gradstep_server.metrics.families import Families
from gradstep_server.sessions.observer import SnapshotOutcome
from gradstep_server.web.served import Served

_METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class RequestMetrics:
    """A watcher of requests."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def began(self) -> None:
        """Count the request as under way."""
        self._families.in_flight.inc()

    def ended(self, served: Served) -> None:
        """Count what was served."""
        families = self._families
        families.in_flight.dec()
        route = served.route or "none"
        method = served.method if served.method in _METHODS else "other"
        status = "none" if served.status is None else f"{served.status // 100}xx"
        families.requests.labels(route, method, status).inc()
        families.request_seconds.labels(route, method).observe(served.seconds)
        families.received.inc(served.received)
        families.sent.inc(served.sent)
        for phase, seconds in served.phases.items():
            families.phase_seconds.labels(phase).observe(seconds)


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
