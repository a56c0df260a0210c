"""``python -m crash.programme``: break the service in every way at hand, and keep count.

It runs the experiments of this folder one after the other and prints what they
found. With ``--write`` the figures go into ``docs/reliability.md``; those of
experiments that were not run stay.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import apsw
import psutil
from crash import (
    damage,
    duplicates,
    faults,
    full_disk,
    kills,
    machine,
    overload,
    power,
    racers,
    recovery,
    sigterm,
    slow,
    syscalls,
    workers,
)
from crash.figures import Figures, Run
from crash.findings import Finding
from fuzz import files, hostile, requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

Progressing = Callable[[int, int], None]

EXPERIMENTS: Mapping[str, Callable[[float, Progressing], list[Finding]]] = {
    "kills": kills.run,
    "sigterm": sigterm.run,
    "slow": slow.run,
    "syscalls": syscalls.run,
    "power": power.run,
    "full_disk": full_disk.run,
    "damage": damage.run,
    "duplicates": duplicates.run,
    "workers": workers.run,
    "racers": racers.run,
    "faults": faults.run,
    "recovery": recovery.run,
    "overload": overload.run,
    "machine": machine.run,
    "fuzz_files": files.run,
    "fuzz_requests": requests.run,
    "hostile": hostile.run,
}
"""By the name of their module, in the order in which they run."""

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    """Run what the arguments name; return the exit code."""
    wanted = _arguments().parse_args()
    if wanted.write and wanted.scale < 1:
        print("--write is for the figures of the full programme: leave --scale out")
        return 2
    console = Console()
    runs, failed = run(wanted.only or list(EXPERIMENTS), wanted.scale, console)
    console.print(_table(runs))
    for name, failure in failed.items():
        console.print(f"{name}: BROKEN: {failure}", style="bold red", markup=False)
    if wanted.write:
        Figures.read(DOCS).updated(runs).write(DOCS)
    return 1 if failed else 0


def run(
    names: Sequence[str], scale: float, console: Console
) -> tuple[dict[str, Run], dict[str, AssertionError]]:
    """Run experiments; return what was found, and where a promise was broken."""
    runs: dict[str, Run] = {}
    failed: dict[str, AssertionError] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        for name in names:
            bar = bars.add_task(name, total=None)

            def show(done: int, total: int, bar: TaskID = bar) -> None:
                bars.update(bar, completed=done, total=total)

            began = time.monotonic()
            try:
                findings = EXPERIMENTS[name](scale, show)
            except AssertionError as failure:
                failed[name] = failure
            else:
                seconds = round(time.monotonic() - began)
                day = datetime.now(UTC).date().isoformat()
                runs[name] = Run(day, hardware(), seconds, findings)
    return runs, failed


def hardware() -> str:
    """Describe what the experiments run on."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}"
    )


def _table(runs: Mapping[str, Run]) -> Table:
    table = Table("Promise", "Experiment", "What was done", "What was found")
    for kept in runs.values():
        for finding in kept.findings:
            table.add_row(finding.promise, finding.experiment, finding.did, finding.found)
    return table


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crash.programme", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is the full programme")
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--write", action="store_true", help="update docs/reliability.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
