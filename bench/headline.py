"""What the README says of speed: a sentence and a chart, from the figures."""

from __future__ import annotations

from collections.abc import Mapping

from bench import units
from bench.report import Measured, replaced
from bench.rows import Row

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"

_STEP, _KERNEL = ("steps", "1 M", "step"), ("kernels", "AdamW, 1 M", "kernel")


def into(readme: str, parts: Mapping[str, Measured]) -> str:
    """Return the README with what these figures say between its markers."""
    rows = {(name, row.case, row.what): row for name, part in parts.items() for row in part.rows}
    said = _said(rows[_STEP], rows[_KERNEL]) if {_STEP, _KERNEL} <= rows.keys() else ""
    return replaced(readme, BEGIN, said, END)


def _said(step: Row, kernel: Row) -> str:
    return f"""
A step of a million parameters by AdamW, float32 gradients in and parameters out over loopback,
takes {units.number(step.ours.median, step.unit)}, which is {step.ratio:.2f} × as long as with \
torch.distributed.rpc. Computing it takes {kernel.ratio:.2f} ×
as long as torch's fused AdamW.

![A step beside others, by size](docs/benchmarks-steps.svg)
"""
