"""The system calls of a running process: watched, made to fail, or made to be its last."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

WRITING = (
    "pwrite64",
    "pwritev",
    "fdatasync",
    "fsync",
    "ftruncate",
    "fallocate",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
)
"""Every call by which a store changes what is on disk. Sockets use others."""

_PATIENCE = 10.0

_CALL = re.compile(r"^\d+ +(\w+)\((?:\d+<([^>]+)>)?")


class Call(NamedTuple):
    """One call: its name, and the open file that it is made on, if it is made on one."""

    name: str
    path: str


def calls(trace: Path) -> list[Call]:
    """Return the calls in a trace, in order."""
    found = (_CALL.match(line) for line in trace.read_text(errors="replace").splitlines())
    return [Call(match[1], match[2] or "") for match in found if match]


def last_call(made: Sequence[Call], place: int) -> str:
    """Return the rule that kills a process as it enters the call at this place."""
    return f"inject={made[place].name}:signal=SIGKILL:when={_turn(made, place)}"


def one_failure(made: Sequence[Call], place: int, error: str) -> str:
    """Return the rule that makes the call at this place fail, and no other."""
    return f"inject={made[place].name}:error={error}:when={_turn(made, place)}"


def lasting_failure(made: Sequence[Call], place: int, error: str, files: Sequence[Path]) -> str:
    """Return the rule that makes the call at this place fail, and all like it on these files."""
    names = {file.name for file in files}
    counted = [call for call in made[: place + 1] if Path(call.path).name in names]
    return f"{one_failure(counted, -1, error)}+"


def _turn(made: Sequence[Call], place: int) -> int:
    """Return how many calls of the name there were when this one came: strace counts by name."""
    return sum(call.name == made[place].name for call in made[: place % len(made) + 1])


@contextmanager
def attached(
    pid: int,
    trace: Path,
    rule: str | None = None,
    *,
    files: Sequence[Path] = (),
    to_the_end: bool = False,
) -> Iterator[None]:
    """Hold a process by all its threads, write its calls to `trace`, and apply a rule to them.

    Args:
        pid: the process.
        trace: where to write.
        rule: what to do to a call.
        files: the files whose calls count; none for all.
        to_the_end: whether the process is let go only by its end.
    """
    watched = ["-e", f"trace={','.join(WRITING)}"]
    applied = ["-e", rule] if rule else []
    chosen = [part for file in files for part in ("-P", str(file))]
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(trace), *watched, *applied, *chosen]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, f"strace cannot trace: {said}"
        try:
            yield
        finally:
            if not (to_the_end and _ends(tracer)):  # a tracer that lets go of the dying hangs
                tracer.send_signal(signal.SIGINT)
                assert _ends(tracer), "strace does not let go"


def _ends(tracer: subprocess.Popen[str]) -> bool:
    try:
        tracer.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return True
