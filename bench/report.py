"""The committed figures: ``docs/benchmarks.json``, and the tables in ``docs/benchmarks.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from bench import units
from bench.charts import CHARTS
from bench.rows import Row, Spread

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
COLUMNS = ("Case", "What", "Ours", "Beside", "Ratio", "Target")


@dataclass(frozen=True)
class Measured:
    """What one part measured, when and where."""

    about: str
    """What the part is, from its module's docstring."""

    day: str
    seconds: int
    machine: Mapping[str, Any]
    rows: list[Row]

    def table(self) -> str:
        """Return the rows as Markdown."""
        lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(cells(row, ', '))} |" for row in self.rows]
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return "\n".join([self.about, "", *lines, "", f"Run on {self.day}: {facts}."])


@dataclass(frozen=True)
class Report:
    """The newest measurements of each part, by name."""

    parts: Mapping[str, Measured]

    @classmethod
    def read(cls, docs: Path) -> Self:
        """Read the figures that are kept."""
        kept = docs / "benchmarks.json"
        parts = json.loads(kept.read_text()) if kept.exists() else {}
        return cls({name: _measured(facts) for name, facts in parts.items()})

    def updated(self, parts: Mapping[str, Measured]) -> Report:
        """Return the report with some parts replaced."""
        return Report({**self.parts, **parts})

    def write(self, docs: Path) -> None:
        """Keep the figures, and put them into the page."""
        parts = {name: asdict(part) for name, part in self.parts.items()}
        text = json.dumps(parts, indent=1, ensure_ascii=False)
        (docs / "benchmarks.json").write_text(text + "\n")
        for name in self.parts.keys() & CHARTS.keys():
            (docs / _chart(name)).write_text(CHARTS[name](self.parts[name].rows))
        page = docs / "benchmarks.md"
        page.write_text(self.into(page.read_text()))

    def into(self, page: str) -> str:
        """Return the page with these figures between its markers."""
        sections = (f"## {name}\n\n{_picture(name)}{p.table()}" for name, p in self.parts.items())
        return replaced(page, BEGIN, "\n\n".join(sections), END)


def replaced(page: str, begin: str, middle: str, end: str) -> str:
    """Return a page with something else between two markers."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{middle}\n{end}{after}"


def _chart(name: str) -> str:
    """Return the name of the file that holds a part's chart."""
    return f"benchmarks-{name}.svg"


def _picture(name: str) -> str:
    return f"![{name} beside others]({_chart(name)})\n\n" if name in CHARTS else ""


def cells(row: Row, between: str) -> tuple[str, ...]:
    """Return a row as texts, in the order of the columns, the others joined by `between`."""
    beside = between.join(f"{name} {units.spread(s, row.unit)}" for name, s in row.others.items())
    target = "" if row.target is None else f"≤ {row.target:g}{'' if row.met else ', missed'}"
    return row.case, row.what, units.spread(row.ours, row.unit), beside, f"{row.ratio:.2f}", target


def _measured(facts: dict[str, Any]) -> Measured:
    rows = [
        Row(
            **{
                **row,
                "ours": Spread(**row["ours"]),
                "others": {name: Spread(**other) for name, other in row["others"].items()},
            }
        )
        for row in facts["rows"]
    ]
    return Measured(**{**facts, "rows": rows})
