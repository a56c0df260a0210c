"""A client that is used on both sides of a fork: each reads its own answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from server_process import server

SCRIPT = """
import os, sys
import numpy as np
import gradstep

with gradstep.Client(sys.argv[1]) as client:
    sessions = [
        client.sessions.create(optimizer={"type": "SGD", "lr": 1.0}, params={"w": np.full(3, w)})
        for w in (100.0, 200.0)
    ]  # the connection that this took is idle now
    child = os.fork()
    session, value = (sessions[0], 100.0) if child else (sessions[1], 200.0)
    for n in range(1, 21):
        params = session.step({"w": np.ones(3)})
        assert params["w"].tolist() == [value - n] * 3, params
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_parent_and_child_step_sessions_of_one_client(tmp_path: Path) -> None:
    with server(tmp_path / "data", store="memory://") as running:
        command = [sys.executable, "-c", SCRIPT, running.url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
