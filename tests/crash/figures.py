"""The committed figures: ``docs/reliability.json``, and the table in ``docs/reliability.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from crash.findings import Finding

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Run:
    """What one experiment found, when and where."""

    day: str
    machine: str
    seconds: int
    findings: list[Finding]


@dataclass(frozen=True)
class Figures:
    """The newest run of each experiment, by name."""

    runs: Mapping[str, Run]

    @classmethod
    def read(cls, docs: Path) -> Self:
        """Read the figures that are kept."""
        runs = json.loads((docs / "reliability.json").read_text())
        return cls(
            {
                name: Run(**{**run, "findings": [Finding(**row) for row in run["findings"]]})
                for name, run in runs.items()
            }
        )

    def updated(self, runs: Mapping[str, Run]) -> Figures:
        """Return the figures with those of some experiments replaced."""
        return Figures({**self.runs, **runs})

    def write(self, docs: Path) -> None:
        """Keep the figures, and put them into the page."""
        runs = {name: asdict(run) for name, run in self.runs.items()}
        (docs / "reliability.json").write_text(
            json.dumps(runs, indent=2, ensure_ascii=False) + "\n"
        )
        page = docs / "reliability.md"
        page.write_text(self.into(page.read_text()))

    def into(self, page: str) -> str:
        """Return the page with these figures between its markers."""
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        return f"{before}{BEGIN}\n{self.table()}{END}{after}"

    def table(self) -> str:
        """Return the figures as Markdown."""
        lines = ["| Promise | Experiment | What was done | What was found |", "|---|---|---|---|"]
        for run in self.runs.values():
            for row in run.findings:
                cells = (row.promise, row.experiment, row.did, row.found)
                lines.append(f"| {' | '.join(cells)} |")
        runs = sorted({(run.day, run.machine) for run in self.runs.values()})
        told = [f"Run on {day}, on {machine}." for day, machine in runs]
        return "\n".join([*lines, "", *told, ""])
