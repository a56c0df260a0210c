"""Every experiment, at a small scale: the promises are kept, and the experiments run.

The state machine has tests of its own, in `tests/e2e`, which draw the same every time.
"""

from __future__ import annotations

import pytest
from crash.programme import EXPERIMENTS

SCALES = {
    "damage": 0.02,
    "duplicates": 0.01,
    "full_disk": 0.1,
    "fuzz_files": 0.02,
    "fuzz_requests": 0.02,
    "kills": 0.02,
    "power": 0.02,
    "racers": 0.01,
    "sigterm": 0.1,
    "slow": 0.1,
    "syscalls": 0.02,
    "workers": 0.1,
}
"""The others have one cycle of each kind, whatever the scale."""


ELSEWHERE = {"machine", "hostile"}
"""These have tests of their own: a state machine that draws the same every time, and the table of
`tests/web/test_costly_bodies.py`, for which a test has no clock of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in ELSEWHERE])
def test_the_promises_are_kept(name: str) -> None:
    findings = EXPERIMENTS[name](SCALES.get(name, 0.01), lambda _done, _total: None)
    assert findings
    assert all(finding.found and finding.did for finding in findings)
