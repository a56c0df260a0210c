"""``python -m bench``: measure beside others, print a table, and keep it if asked to."""

from __future__ import annotations

import argparse
import inspect
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from bench import (
    clients,
    curves,
    durability,
    headline,
    kernels,
    machine,
    memory,
    pipeline,
    steps,
    transports,
)
from bench.report import COLUMNS, Measured, Report, cells
from bench.rows import Part, Progress

PARTS: Mapping[str, ModuleType] = {
    "kernels": kernels,
    "steps": steps,
    "pipeline": pipeline,
    "transports": transports,
    "durability": durability,
    "curves": curves,
    "clients": clients,
    "memory": memory,
}
"""By name, in the order in which they run; each has a `run`, and tells what it measures."""

README = Path(__file__).parents[1] / "README.md"
DOCS = README.with_name("docs")


def main() -> int:
    """Measure what the arguments name; return 1 where a target was missed."""
    # So that whatever was started ends too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = _parser()
    wanted = parser.parse_args()
    if wanted.write and wanted.quick:
        parser.error("--write is for the figures of a full run: leave --quick out")
    console = Console()
    measured = measure(wanted.only or list(PARTS), console, quick=wanted.quick)
    for name, part in measured.items():
        console.print(_table(name, part))
    if wanted.write:
        report = Report.read(DOCS).updated(measured)
        report.write(DOCS)
        README.write_text(headline.into(README.read_text(), report.parts))
    return int(any(row.met is False for part in measured.values() for row in part.rows))


def measure(names: Sequence[str], console: Console, *, quick: bool) -> dict[str, Measured]:
    """Run parts one after the other, with a bar for each."""
    measured = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
        for name in names:
            bar = bars.add_task(name, total=None)

            def show(done: int, total: int, bar: TaskID = bar) -> None:
                bars.update(bar, completed=done, total=total)

            run: Part = PARTS[name].run
            hardware, began = machine.described(), time.monotonic()
            rows = run(Progress(show, quick))
            seconds = round(time.monotonic() - began)
            day = datetime.now(UTC).date().isoformat()
            about = inspect.getdoc(PARTS[name]) or ""
            measured[name] = Measured(about, day, seconds, hardware, rows)
    return measured


def _table(name: str, part: Measured) -> Table:
    table = Table(*COLUMNS, title=name)
    for row in part.rows:
        table.add_row(*cells(row, "\n"), style="red" if row.met is False else "")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART")
    parser.add_argument("--quick", action="store_true", help="a few rounds of small cases")
    parser.add_argument(
        "--write", action="store_true", help="update docs/benchmarks* and the README"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
