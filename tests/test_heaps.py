"""What the heaps hold between two pieces of work, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WORK = """
import resource
from gradstep_server.heaps import hold_less

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

hold_less()
for _ in range(20):
    before = faults()
    parts = [b"x" * 1_300_000 for _ in range(4)]
    del parts
    last = faults() - before
print(last)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux counts them")
def test_memory_of_some_megabytes_is_not_cleared_anew_for_each_answer() -> None:
    done = subprocess.run([sys.executable, "-c", _WORK], capture_output=True, text=True, check=True)
    pages = 4 * 1_300_000 // 4096
    assert int(done.stdout) < pages // 10
