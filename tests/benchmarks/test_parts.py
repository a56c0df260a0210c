"""Every part of the benchmark runs, beside real peers, and ends what it has started."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psutil
import pytest

from bench import clients, curves, durability, memory, pipeline, steps, transports
from bench.rows import Progress, Row


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def _run(part: object) -> list[Row]:
    told: list[tuple[int, int]] = []
    rows: list[Row] = part.run(Progress(lambda *done: told.append(done), quick=True))  # type: ignore[attr-defined] # each has one
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    for row in rows:
        assert part.__name__ == f"bench.{row.part}"  # type: ignore[attr-defined] # it is a module
        assert math.isfinite(row.ratio)
        assert row.ours.least > 0
        assert all(0 < other.least <= other.p95 for other in row.others.values())
    return rows


def _targets(rows: list[Row]) -> dict[tuple[str, str], float | None]:
    return {(row.case, row.what): row.target for row in rows}


def test_steps_stand_beside_torch_rpc_and_what_else_one_would_write() -> None:
    rows = _run(steps)
    assert [row.case for row in rows if row.target == 1] == ["1 k", "100 k"]
    assert list(rows[0].others) == [
        "torch rpc",
        "FastAPI + safetensors",
        "FastAPI + JSON",
        "socket echo",
    ]
    least, echo = rows[1].others.values()
    assert least.median > echo.median


def test_a_pipeline_stands_beside_one_step_after_another() -> None:
    [row] = _run(pipeline)
    assert (row.case, row.what, *row.others) == (
        "1 k, 8 sessions",
        "Pipeline",
        "one after another",
    )


def test_transports_stand_beside_tcp_and_float32() -> None:
    rows = _run(transports)
    assert [(row.what, *row.others) for row in rows] == [
        ("Unix socket", "TCP"),
        *(
            (what, "F32 both ways")
            for what in (
                "gradients in BF16",
                "parameters in BF16",
                "BF16 both ways",
                "receipt alone",
                "BF16, receipt alone",
            )
        ),
    ]


def test_durable_stores_stand_beside_memory_and_the_disk() -> None:
    rows = _run(durability)
    assert _targets(rows)["100 k", "SQLite"] == 1
    assert _targets(rows)["1 k", "SQLite"] == pytest.approx(1 / 0.6)
    large = next(row for row in rows if (row.case, row.what) == ("100 k", "SQLite"))
    assert list(large.others) == ["memory:// + 2 × sync", "sync", "memory://"]
    assert {row.what for row in rows} == {
        "SQLite",
        "SQLite, relaxed",
        "PostgreSQL",
        "PostgreSQL, relaxed",
    }


def test_curves_stand_beside_torch_and_an_empty_route() -> None:
    targets = {what: target for (_, what), target in _targets(_run(curves)).items()}
    assert targets == {
        "columns": 1 / 50,
        "rows": None,
        "csv": None,
        "svg": None,
        "curve, the same again": 1 / 0.7,
        "curve, always another": 1 / 0.7,
        "curve, the same again by its ETag": None,
        "window from step 1e9": curves.WINDOW_TARGET,
    }


def test_small_steps_stand_beside_an_empty_route() -> None:
    rows = _run(clients)
    assert {row.case: row.target for row in rows} == {
        "memory://, 1 client": 2,
        "memory://, 8 clients": 2,
        "SQLite, 1 client": None,
        "SQLite, 8 clients": None,
        "SQLite, 2 workers, 1 client": None,
        "SQLite, 2 workers, 8 clients": None,
    }


def test_memory_stands_beside_what_is_promised() -> None:
    [row] = _run(memory)
    assert row.unit == "B"
    assert row.ours.median > row.others["idle"].median > 50 << 20
    assert row.target == 1
