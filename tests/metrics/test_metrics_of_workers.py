"""Several workers answer a scrape as one, whichever of them is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from server_process import PATIENCE, Server, server

from gradstep_server.metrics import workers

ROUTE = 'gradstep_requests_total{method="GET",route="/v1/optimizers",status="2xx"}'
REQUESTS = 20


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path / "data", "--workers", "2") as started:
        yield started


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client with a new connection for each request, which either worker takes."""
    with httpx.Client(headers={"Connection": "close"}, timeout=PATIENCE) as client:
        yield client


def value(http: httpx.Client, target: Server, sample: str) -> float:
    """Return a sample of one scrape."""
    for line in http.get(f"{target.url}/metrics").text.splitlines():
        name, _, number = line.rpartition(" ")
        if name == sample:
            return float(number)
    return 0.0


def test_every_scrape_counts_what_both_have_served(two_workers: Server, http: httpx.Client) -> None:
    for _ in range(REQUESTS):
        assert http.get(f"{two_workers.url}/v1/optimizers").is_success
    assert {value(http, two_workers, ROUTE) for _ in range(10)} == {REQUESTS}


def test_a_worker_that_was_killed_holds_no_memory_and_has_served_what_it_has(
    two_workers: Server, http: httpx.Client
) -> None:
    for _ in range(REQUESTS):
        http.get(f"{two_workers.url}/v1/optimizers")
    both = value(http, two_workers, "gradstep_memory_budget_bytes")
    killed = next(
        child
        for child in two_workers.process.children()
        if any("--multiprocessing-fork" in part for part in child.cmdline())
    )
    killed.kill()
    until = time.monotonic() + PATIENCE
    while value(http, two_workers, "gradstep_memory_budget_bytes") != both or psutil.pid_exists(
        killed.pid
    ):
        assert time.monotonic() < until  # the supervisor starts another one
        time.sleep(0.1)
    assert value(http, two_workers, ROUTE) == REQUESTS


def test_the_directory_is_there_as_long_as_the_workers(two_workers: Server) -> None:
    [folder] = {
        child.environ().get("PROMETHEUS_MULTIPROC_DIR")
        for child in two_workers.process.children()
        if "PROMETHEUS_MULTIPROC_DIR" in child.environ()
    }
    assert folder is not None
    assert Path(folder).is_dir()
    two_workers.stop()
    assert not Path(folder).exists()


def test_what_a_dead_worker_had_in_memory_is_forgotten_and_what_it_counted_is_not(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        for kind in ("gauge_livesum", "counter", "histogram", "gauge_max"):
            (tmp_path / f"{kind}_{pid}.db").touch()
    workers.forget_dead(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 7
    assert f"gauge_livesum_{ended.pid}.db" not in left
