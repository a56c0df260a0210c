"""The charts of the benchmark show its ratios, and what the README says is what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from bench import __main__ as programme
from bench import charts, headline
from bench.charts import Scale
from bench.report import Measured, Report
from bench.rows import Row, Spread


def _spread(seconds: float) -> Spread:
    return Spread(seconds, seconds, seconds)


def _row(part: str, case: str, what: str, ratio: float = 0.5) -> Row:
    others = {"torch <rpc>": _spread(2e-3), "JSON": _spread(0.1), "echo": _spread(1e-4)}
    return Row(part, case, what, _spread(1e-3), others, ratio)


STEP = _row("steps", "1 M", "step")
KERNEL = _row("kernels", "AdamW, 1 M", "kernel", 0.25)
PARTS = {
    name: Measured("", "2026-01-02", 1, {}, [row])
    for name, row in {"steps": STEP, "kernels": KERNEL}.items()
}


def _elements(picture: str, tag: str) -> list[ET.Element]:
    return ET.fromstring(picture).findall(f".//{{http://www.w3.org/2000/svg}}{tag}")  # noqa: S314 - our own


def test_each_bar_begins_at_one_and_ends_at_its_ratio() -> None:
    picture = charts.steps([STEP, _row("steps", "1 M", "something else")])
    bars = [bar for bar in _elements(picture, "rect") if bar.get("class") != "page"]
    scale = Scale.over([2, 100, 0.1])
    spans = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in bars]
    one = scale.at(1)
    assert spans == [
        (one, round(scale.at(2) - one, 1)),
        (one, round(scale.at(100) - one, 1)),
        (scale.at(0.1), round(one - scale.at(0.1), 1)),
    ]
    assert [bar.get("class") for bar in bars] == ["slower", "slower", "faster"]


def test_each_bar_has_its_name_and_its_numbers() -> None:
    texts = [text.text for text in _elements(charts.steps([STEP]), "text")]
    assert "1 M: gradstep 1 ms" in texts
    assert {"torch <rpc>", "2 × (2 ms)", "100 × (100 ms)", "0.1 × (100 µs)"} <= set(texts)


def test_the_ratio_of_the_first_is_the_rows_own() -> None:
    texts = [text.text for text in _elements(charts.kernels([KERNEL]), "text")]
    assert "4 × (2 ms)" in texts


def test_kernels_are_drawn_of_one_optimizer() -> None:
    rows = [KERNEL, _row("kernels", "Adam, 1 M", "kernel"), _row("kernels", "AdamW, 1 M", "whole")]
    assert len(_elements(charts.kernels(rows), "rect")) == 1 + len(KERNEL.others)


def test_a_scale_has_at_most_as_many_ticks_as_fit() -> None:
    assert Scale.over([0.5, 3]).ticks() == [0.5, 1, 2]
    assert Scale.over([0.01, 900]).ticks() == [0.01, 0.1, 1, 10, 100]


def test_a_report_writes_the_charts_that_its_page_shows(tmp_path: Path) -> None:
    (tmp_path / "benchmarks.md").write_text("<!-- figures: begin --><!-- figures: end -->")
    Report(PARTS).write(tmp_path)
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (tmp_path / "benchmarks.md").read_text())
    assert shown == ["benchmarks-steps.svg", "benchmarks-kernels.svg"]
    assert all(_elements((tmp_path / name).read_text(), "rect") for name in shown)


def test_the_readme_tells_the_figures_and_nothing_where_there_are_none() -> None:
    page = f"before\n{headline.BEGIN}\nold\n{headline.END}\nafter\n"
    told = headline.into(page, PARTS)
    assert "takes 1 ms, which is 0.50 × as long" in told
    assert "0.25 ×\nas long as torch's fused AdamW" in told
    assert "old" not in told
    assert headline.into(told, {}) == f"before\n{headline.BEGIN}\n\n{headline.END}\nafter\n"


def test_the_committed_readme_tells_the_committed_figures() -> None:
    readme = programme.README.read_text()
    assert headline.into(readme, Report.read(programme.DOCS).parts) == readme
