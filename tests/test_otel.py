"""Traces: FastAPI's own, switched on by a setting, and nothing of a body in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from session_app import f32, running

from gradstep_server import app as root
from gradstep_server.ending import CannotRun
from gradstep_server.serving import require_extras
from gradstep_server.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of the applications that are made in the test, whoever makes them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def traced(*, telemetry: TelemetryConfig, **options: Any) -> FastAPI:
        return FastAPI(**options, telemetry={**telemetry, "tracer_provider": provider})

    monkeypatch.setattr(root, "FastAPI", traced)
    yield exporter
    provider.shutdown()


def step(**settings: Any) -> None:
    """Take a step within a trace of the client's."""
    with running(**settings) as service:
        path = service.session("s", params={"w": [0.0, 0.0]})
        service.step(path, 1, {"w": f32(1.5, 2)}, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        service.get("/livez")


def test_a_step_is_a_span_of_the_clients_trace_named_after_its_route(
    spans: InMemorySpanExporter,
) -> None:
    step(otel=True)
    [served] = [span for span in requests(spans) if "steps" in span.name]
    assert served.name == "PUT /v1/sessions/{id}/steps/{n}"
    assert f"{served.context.trace_id:032x}" == TRACE
    attributes = dict(served.attributes or {})
    assert attributes["http.response.status_code"] == 201
    assert attributes["url.path"] == "/v1/sessions/s/steps/1"
    assert "1.5" not in str(attributes)


def test_probes_are_not_traced(spans: InMemorySpanExporter) -> None:
    step(otel=True)
    assert not [span for span in requests(spans) if "livez" in span.name]


def test_nothing_is_traced_unless_it_was_asked_for(spans: InMemorySpanExporter) -> None:
    step()
    assert not spans.get_finished_spans()


def test_tracing_without_its_packages_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_extras(Settings(otel=True))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    require_extras(Settings())
    with pytest.raises(CannotRun, match=r"pip install 'gradstep-server\[otel\]'"):
        require_extras(Settings(otel=True))


def requests(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    """Return the spans of whole requests."""
    return [span for span in spans.get_finished_spans() if span.kind.name == "SERVER"]
