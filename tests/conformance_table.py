"""What `make conformance` found: for each kind the worst error, as a share of promise D9."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version

from gradstep_server.kinds import Kind

PAGE = """\
# How close the numbers are

Promise D9 is that from equal state one step differs from the reference by at most 1e-12 (float64)
or 1e-6 (float32) of the tensor's largest parameter, and that a schedule differs by at most 1e-9 of
the rate plus 1e-12 of the base rate. Below is what one run of `make conformance` found: the worst
error of any step as a share of that, so 1 is the most that is allowed. It writes this page.

## Optimizers

Each is stepped beside its reference with hyperparameters around those of its examples, every flag
both ways, at a rate that changes with every step; parameters are vectors, matrices and stacks of
matrices, where a kind takes them. After each step it gets the reference's state, so that every
step is one that resumes from a state which another library has written. Kinds
that torch lacks are compared with optax and with their paper, written down in torch's plain
operations: optax has neither `maximize` nor every decay.

{optimizers}

Muon is within the promise of torch's own code whose roundings are fixed. torch orthogonalises in
bfloat16, and leaves it to the machine in which order the products of two matrices are added up,
and whether an average rounds once or twice; so one number now and then becomes another bfloat16,
which five iterations carry on. For the first row torch is given sums in the order of columns,
averages that round twice, and a norm in float64, as it is for clipping. The second row is torch as
it is, on the machine of the run: no promise. [torch.md](torch.md#how-close-the-numbers-are) says
how far larger matrices are apart.

## Schedules

Each is stepped through live, and so is the momentum where a schedule moves it. Then a schedule
that was written as JSON and read again begins anew at each of these steps, with what it has kept of
the metrics before: every rate is the same bits as of the curve that ran through.

{schedulers}
"""


@dataclass(frozen=True)
class Row:
    """What was found of one kind."""

    kind: str
    reference: str
    points: int
    steps: int
    shares: tuple[float, ...]


def reference_of(kind: type[Kind], otherwise: str) -> str:
    """Return the library that a kind was compared with and its version, or `otherwise`."""
    name = kind.torch_name or kind.reference
    if not name:
        return otherwise
    library, _, _ = name.partition(".")
    release, _, _ = version(library).partition("+")
    return f"`{name}` {release}"


@dataclass
class Table:
    """The rows of a run, in the order in which they were found."""

    optimizers: list[Row] = field(default_factory=list)
    schedulers: list[Row] = field(default_factory=list)

    def page(self) -> str:
        """Return the whole page."""
        return PAGE.format(
            optimizers=_markdown(self.optimizers, "Worst, float64", "Worst, float32"),
            schedulers=_markdown(self.schedulers, "Worst"),
        )


def _markdown(rows: list[Row], *shares: str) -> str:
    head = ("Kind", "Reference", "Points", "Steps each", *shares)
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    for row in rows:
        found = [f"{share:.0e}" if share else "0" for share in row.shares]
        cells = (f"`{row.kind}`", row.reference, str(row.points), f"{row.steps:,}", *found)
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)
