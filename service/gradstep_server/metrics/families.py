"""Every metric there is, with its labels and its buckets.

Labels have few values, which no client can make more of: templates of routes,
methods that we serve, classes of statuses, and names that stand in the code.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call] # it has no types; a series nobody asks

_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Seconds: a small step takes one or two milliseconds, 100 million parameters some seconds."""

_PHASE = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
"""Seconds: the phases of a small step take fractions of a millisecond."""

_STORE = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
_REBUILT = (0.001, 0.01, 0.1, 0.3, 1, 3, 10, 30, 100)
_SNAPSHOT = (0.01, 0.1, 0.3, 1, 3, 10, 30, 100)


class Families:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.build = Gauge(
            "gradstep_build_info",
            "1, with the version of the service and of Python.",
            ["version", "python"],
            registry=self.registry,
            multiprocess_mode="max",
        )
        self._of_requests()
        self._of_request_memory()
        self._of_sessions()
        self._of_the_store()

    def _of_requests(self) -> None:
        self.requests = Counter(
            "gradstep_requests",
            "Requests served, by the template of their route, method and class of status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "gradstep_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route", "method"],
            buckets=_REQUEST,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "gradstep_requests_in_flight",
            "Requests under way.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.received = Counter(
            "gradstep_received_bytes", "Bytes of requests' bodies.", registry=self.registry
        )
        self.sent = Counter(
            "gradstep_sent_bytes", "Bytes of answers' bodies.", registry=self.registry
        )
        self.phase_seconds = Histogram(
            "gradstep_step_phase_seconds",
            "What a step that was answered spent in each phase: receive, decode, digest, wait for "
            "its session, compute, append, copy, encode, send.",
            ["phase"],
            buckets=_PHASE,
            registry=self.registry,
        )

    def _of_request_memory(self) -> None:
        self.room_bytes = Gauge(
            "gradstep_request_memory_bytes",
            "Bytes of the request memory that are taken, by part: bodies, answers.",
            ["part"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.room_limit_bytes = Gauge(
            "gradstep_request_memory_limit_bytes",
            "The request memory, of all workers together, by part.",
            ["part"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.room_waiting = Gauge(
            "gradstep_request_memory_waiting",
            "Requests that wait for a part of the request memory.",
            ["part"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.room_refused = Counter(
            "gradstep_request_memory_refused",
            "Requests that were refused since they found none, by part.",
            ["part"],
            registry=self.registry,
        )

    def _of_sessions(self) -> None:
        self.hot_sessions = Gauge(
            "gradstep_hot_sessions",
            "Sessions in memory.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.hot_bytes = Gauge(
            "gradstep_hot_bytes",
            "Bytes of the memory budget that sessions in memory take.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.budget_bytes = Gauge(
            "gradstep_memory_budget_bytes",
            "The memory budget, of all workers together.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.evictions = Counter(
            "gradstep_evictions",
            "Sessions that gave up their memory to another one.",
            registry=self.registry,
        )
        self.replayed = Counter(
            "gradstep_replayed_entries",
            "Entries of logs that were replayed to rebuild sessions.",
            registry=self.registry,
        )
        self.rebuild_seconds = Histogram(
            "gradstep_rebuild_seconds",
            "How long a session took to be rebuilt from its snapshot and its log.",
            buckets=_REBUILT,
            registry=self.registry,
        )
        self.snapshot_seconds = Histogram(
            "gradstep_snapshot_seconds",
            "How long a snapshot took, by its outcome: kept, abandoned, failed.",
            ["outcome"],
            buckets=_SNAPSHOT,
            registry=self.registry,
        )

    def _of_the_store(self) -> None:
        self.store_seconds = Histogram(
            "gradstep_store_seconds",
            "How long the store took, by operation and outcome: ok, taken (another writer was "
            "first), unavailable, full, corrupt, cancelled, error.",
            ["operation", "outcome"],
            buckets=_STORE,
            registry=self.registry,
        )
        self.store_in_flight = Gauge(
            "gradstep_store_operations_in_flight",
            "Operations that the store is at, or that wait for one of its threads.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
