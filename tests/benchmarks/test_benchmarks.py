"""The benchmark measures what it says, in turn, and keeps what it has measured."""

from __future__ import annotations

import json
import math
import os
from itertools import chain
from pathlib import Path

import pytest

from bench import __main__ as programme
from bench import kernels, machine, turns
from bench.report import BEGIN, END, Measured, Report, cells
from bench.rows import Progress, Row, Spread

ROW = Row(
    "kernels",
    "AdamW, 1 k",
    "kernel",
    Spread(2e-5, 1.5e-5, 4e-5),
    {"torch fused": Spread(8e-5, 4e-5, 9e-5), "torch single": Spread(0.25, 0.125, 0.5)},
    0.25,
    0.6,
)
MEASURED = Measured("What is measured.", "2026-01-02", 3, {"cores": 2}, [ROW])


def test_things_take_turns_in_an_order_that_is_reversed_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "REST", 0)
    called: list[str] = []
    things = {name: lambda name=name: called.append(name) for name in "ab"}
    measured = turns.turn_about(things, rounds=3, calls=2)
    assert "".join(called) == "aaabbb" + "bbbaaa" + "aaabbb"
    assert {name: len(seconds) for name, seconds in measured.items()} == {"a": 3, "b": 3}
    assert all(seconds >= 0 for seconds in chain(*measured.values()))


def test_memory_is_at_hand_before_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "REST", 0)
    happened: list[object] = []
    monkeypatch.setattr(turns, "have_at_hand", happened.append)
    turns.turn_about({"a": lambda: happened.append("a")}, rounds=2, calls=1, memory=5)
    assert happened == [5, "a", "a"] * 2


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    measured = {"ours": [1.0, 9.0, 2.0], "theirs": [2.0, 3.0, 2.0], "more": [5.0, 4.0, 6.0]}
    row = Row.compare("p", "c", "w", measured, ours="ours", others=["theirs", "more"], target=0.9)
    assert row.ratio == 1.0
    assert (row.ours, row.others["more"]) == (Spread(2.0, 1.0, 9.0), Spread(5.0, 4.0, 6.0))
    assert row.met is False


@pytest.mark.parametrize(("target", "met"), [(None, None), (0.25, True), (0.2, False)])
def test_a_row_says_whether_it_is_what_was_promised(target: float | None, met: bool | None) -> None:
    row = Row("p", "c", "w", ROW.ours, ROW.others, 0.25, target)
    assert row.met is met


def test_a_row_is_written_in_units_that_fit() -> None:
    assert cells(ROW, "; ") == (
        "AdamW, 1 k",
        "kernel",
        "20 µs (15–40)",
        "torch fused 80 µs (40–90); torch single 250 ms (125–500)",
        "0.25",
        "≤ 0.6",
    )
    memory = Row(
        "m", "c", "peak", Spread(3 << 20, 1 << 20, 3 << 20), {"of": Spread(1, 1, 1)}, 3.0, 2.0, "B"
    )
    assert cells(memory, "; ")[2:] == ("3 MiB (1–3)", "of 0.000977 KiB", "3.00", "≤ 2, missed")


def test_a_report_replaces_the_parts_that_were_measured_and_keeps_the_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "benchmarks.md").write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    other = Measured("Other.", "2026-01-01", 9, {"cores": 1}, [])
    Report.read(tmp_path).updated({"other": other, "kernels": other}).write(tmp_path)
    Report.read(tmp_path).updated({"kernels": MEASURED}).write(tmp_path)
    assert Report.read(tmp_path).parts == {"other": other, "kernels": MEASURED}
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.startswith("# Before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page
    assert "| AdamW, 1 k | kernel | 20 µs (15–40) |" in page
    assert "Run on 2026-01-02: cores 2." in page


def test_the_committed_page_is_what_the_committed_figures_make() -> None:
    page = (programme.DOCS / "benchmarks.md").read_text()
    assert Report.read(programme.DOCS).into(page) == page


def test_the_machine_is_described_with_what_matters_to_speed() -> None:
    facts = machine.described()
    assert facts["cores"] == os.cpu_count()
    assert facts["cpu"]
    assert {"numpy", "numba", "torch", "python", "load", "memory_gib"} <= facts.keys()
    json.dumps(facts)


def test_every_kernel_is_measured_beside_torch_with_its_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "SIZES", {"1 k": (1000, 1, 0.6), "3 in 3": (3, 3, 0.5)})
    monkeypatch.setattr(kernels, "_QUICK", ("1 k", "3 in 3"))
    told: list[tuple[int, int]] = []
    rows = kernels.run(Progress(lambda done, total: told.append((done, total)), quick=True))
    assert {(row.what, row.target) for row in rows} == {
        ("kernel", 0.6),
        ("kernel", 0.5),
        ("reduction", 0.4),
        ("whole step", None),
    }
    assert len(rows) == 2 * 3 * len(kernels.OPTIMIZERS)
    assert all(math.isfinite(row.ratio) and row.ours.least > 0 for row in rows)
    assert list(rows[0].others) == ["torch fused", "torch foreach", "torch single"]
    assert told[0] == (0, 6)
    assert told[-1] == (6, 6)
