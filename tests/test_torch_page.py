"""The example of docs/torch.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from server_process import Server

PAGE = (Path(__file__).parents[1] / "docs" / "torch.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
ADDRESS = "http://127.0.0.1:8000"


def test_training_moves_to_gradstep_and_back(running: Server) -> None:
    script = BLOCKS["moving"].replace(ADDRESS, running.url)
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    there, back = finished.stdout.splitlines()
    assert there == "10 0.01 state_dict"
    assert back == "20 the schedule moved with each optimizer.step(): scheduler.step() after it"
