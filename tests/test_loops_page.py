"""The examples of docs/loops.md run as they stand, and its tables are complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import Server

from gradstep_server.web.curve_request import CurveRequest

PAGE = (Path(__file__).parents[1] / "docs" / "loops.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
ADDRESS = "http://127.0.0.1:8000"


def output(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_answer_is_the_one_that_is_shown(running: Server) -> None:
    script = BLOCKS["accelerate"].replace(ADDRESS, running.url)
    answer, shown = json.loads(output("bash", "-euc", script)), json.loads(BLOCKS["answer"])
    assert answer.pop("lr") == pytest.approx(shown.pop("lr"), abs=1e-6)
    assert answer == shown


def test_the_sdk_says_when_the_rate_is_highest(running: Server) -> None:
    script = BLOCKS["python"].replace(ADDRESS, running.url)
    assert output(sys.executable, "-c", script) == "1.0 0.001\n"


def test_every_parameter_of_the_loop_is_in_the_table() -> None:
    told = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    names = list(CurveRequest.model_fields)
    loop = names[names.index("steps_per_epoch") : names.index("last_epoch")]
    assert sorted(told) == sorted(loop)
