"""What ``/metrics`` shows of a service in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_process import server
from session_app import SAFETENSORS, Service, f32, file, gradients, running

from gradstep_server import __version__
from gradstep_server.sessions.errors import SessionCorrupt, StorageFull, StoreUnavailable
from gradstep_server.stores.memory import MemoryStore

STEPS = {"route": "/v1/sessions/{id}/steps/{n}", "method": "PUT"}
GRADIENTS = {"w": f32(1, 2)}
MIB = 2**20
PHASES = ("receive", "decode", "digest", "wait", "compute", "append", "copy", "encode", "send")


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as started:
        yield started


class Shown:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

    def __call__(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """Return the sum of the samples that have these labels, 0 where there are none."""
        wanted = (labels or {}).items()
        return sum(s.value for s in self.samples if s.name == name and wanted <= s.labels.items())


def scraped(service: Service) -> Shown:
    response = service.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Shown(response.text)


def test_requests_are_counted_by_route_method_and_class_of_status(service: Service) -> None:
    path = service.session("s", params={"w": [0.0, 0.0]})
    service.step(path, 1, GRADIENTS)
    service.step(path, 1, GRADIENTS)
    service.step(path, 7, GRADIENTS)
    service.get("/none")
    shown = scraped(service)
    assert shown("gradstep_requests_total", {**STEPS, "status": "2xx"}) == 2
    assert shown("gradstep_requests_total", {**STEPS, "status": "4xx"}) == 1
    assert shown("gradstep_requests_total", {"route": "none", "status": "4xx"}) == 1
    assert shown("gradstep_request_seconds_count", STEPS) == 3
    assert 0 < shown("gradstep_request_seconds_sum", STEPS) < 60
    assert shown("gradstep_requests_in_flight") == 1  # the scrape itself


def test_bytes_of_bodies_are_counted_both_ways(service: Service) -> None:
    path = service.session("s", params={"w": [0.0, 0.0]})
    before = scraped(service)
    answer = service.step(path, 1, GRADIENTS)
    after = scraped(service)
    received, sent = "gradstep_received_bytes_total", "gradstep_sent_bytes_total"
    assert after(received) - before(received) == len(file(GRADIENTS))
    assert after(sent) - before(sent) >= len(answer.content)


def test_a_large_body_is_counted_whole_though_it_is_received_past_uvicorn(tmp_path: Path) -> None:
    content = file({"w": np.zeros(250_000, np.float32)})
    with server(tmp_path / "data", store="memory://") as target, httpx.Client() as http:
        config = {"optimizer": {"type": "SGD", "lr": 1.0}}
        assert http.put(f"{target.url}/v1/sessions/s", json=config).is_success
        before = Shown(http.get(f"{target.url}/metrics").text)
        sent = http.put(f"{target.url}/v1/sessions/s/params", content=content, headers=SAFETENSORS)
        assert sent.is_success
        after = Shown(http.get(f"{target.url}/metrics").text)
    received = "gradstep_received_bytes_total"
    assert after(received) - before(received) == len(content)


def test_every_phase_of_a_step_is_measured_and_none_of_a_refused_one(service: Service) -> None:
    path = service.session("s", params={"w": [0.0, 0.0]})
    service.step(path, 1, GRADIENTS)
    service.put(f"{path}/steps/2", json={"grads": {"w": [1, 2]}})
    service.step(path, 9, GRADIENTS)
    shown = scraped(service)
    for phase in PHASES:
        assert shown("gradstep_step_phase_seconds_count", {"phase": phase}) == 2
    whole = shown("gradstep_request_seconds_sum", STEPS)
    assert 0 < shown("gradstep_step_phase_seconds_sum") < whole


def test_sessions_in_memory_count_against_the_budget() -> None:
    with running(memory_budget=100) as service:
        service.session("a", params={"w": [0.0] * 20})
        shown = scraped(service)
        assert shown("gradstep_hot_sessions") == 1
        assert shown("gradstep_hot_bytes") == 80
        assert shown("gradstep_memory_budget_bytes") == 100
        service.session("b", params={"w": [0.0] * 20})
        service.get("/v1/sessions/a")
        shown = scraped(service)
        assert shown("gradstep_hot_sessions") == 1
        assert shown("gradstep_evictions_total") == 2
        assert shown("gradstep_replayed_entries_total") == 1
        assert shown("gradstep_rebuild_seconds_count") == 1
        assert shown("gradstep_store_seconds_count", {"operation": "replay", "outcome": "ok"}) > 0


def test_the_memory_of_requests_is_shown_with_who_finds_none() -> None:
    part = {"part": "answers"}
    with running(request_memory=8 * MIB) as service:
        path = service.session("s")
        service.put(
            f"{path}/params", content=file(gradients(1, w=(MIB // 2,))), headers=SAFETENSORS
        )
        shown = scraped(service)
        assert shown("gradstep_request_memory_limit_bytes", part) == 4 * MIB
        assert shown("gradstep_request_memory_limit_bytes") == 8 * MIB
        assert shown("gradstep_request_memory_bytes", part) == 0
        lent = service.app.state.services.buffers.take(3 * MIB)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(service.get, f"{path}/params")
            while not scraped(service)("gradstep_request_memory_waiting", part):
                assert not asked.done()
            assert scraped(service)("gradstep_request_memory_bytes", part) == 3 * MIB
            assert asked.result().status_code == 503
        del lent
        assert service.get(f"{path}/params").status_code == 200
        shown = scraped(service)
        assert shown("gradstep_request_memory_refused_total", part) == 1
        assert shown("gradstep_request_memory_refused_total") == 1
        assert shown("gradstep_request_memory_waiting") == 0


def test_snapshots_are_measured_by_their_outcome() -> None:
    with running(snapshot_steps=1) as service:
        path = service.session("s", params={"w": [0.0, 0.0]})
        service.step(path, 1, GRADIENTS)
        while not scraped(service)("gradstep_snapshot_seconds_count", {"outcome": "kept"}):
            pass
        shown = scraped(service)
        assert shown("gradstep_store_seconds_count", {"operation": "snapshot_commit"}) == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StorageFull("no space left"), "full"),
        (StoreUnavailable("away"), "unavailable"),
        (SessionCorrupt("damaged"), "corrupt"),
        (RuntimeError("a defect"), "error"),
    ],
)
def test_the_store_is_measured_by_operation_and_outcome(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    async def fail(*_: object, **__: object) -> bool:
        raise error

    path = service.session("s", params={"w": [0.0, 0.0]})
    service.step(path, 1, GRADIENTS)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "append", fail)
        assert service.step(path, 2, GRADIENTS).status_code >= 500
    assert service.view(path)["step"] == 1
    shown = scraped(service)
    appended = {"operation": "append"}
    assert shown("gradstep_store_seconds_count", {**appended, "outcome": "ok"}) == 1
    assert shown("gradstep_store_seconds_count", {**appended, "outcome": outcome}) == 1
    assert shown("gradstep_store_operations_in_flight") == 0


def test_the_page_says_which_build_it_is_and_what_the_process_takes(service: Service) -> None:
    shown = scraped(service)
    assert shown("gradstep_build_info", {"version": __version__}) == 1
    assert shown("process_resident_memory_bytes") > 1e7


def test_no_client_can_make_more_series(service: Service) -> None:
    def series() -> set[tuple[str, ...]]:
        shown = scraped(service).samples
        return {(s.name, *map(str, s.labels.values())) for s in shown}

    def visit(name: str) -> None:
        path = service.session(name, params={"w": [0.0, 0.0]})
        service.step(path, 1, GRADIENTS)
        service.get(f"/{name}")
        service.get(f"/v1/schedulers/{name}")
        service.request(name.upper(), "/v1/optimizers")

    visit("a")
    series()  # which the next one counts
    before = series()
    for number in range(20):
        visit(f"more-{number}")
    assert series() == before
