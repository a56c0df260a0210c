"""What Prometheus is told: the metrics, and the watchers that fill them."""

from gradstep_server.metrics.families import Families
from gradstep_server.metrics.observed_store import ObservedStore
from gradstep_server.metrics.page import Page
from gradstep_server.metrics.watchers import RequestMetrics, SessionMetrics

__all__ = ["Families", "ObservedStore", "Page", "RequestMetrics", "SessionMetrics"]
