"""The README's quickstarts run as they stand, against a service of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import Server

README = Path(__file__).parents[1] / "README.md"
ADDRESS = "http://127.0.0.1:8000"


def snippet(name: str, address: str) -> str:
    """Return the code block behind the marker of this name."""
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, f"the README has no block marked {name}"
    assert ADDRESS in found[1]
    return found[1].replace(ADDRESS, address)


def output(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_curl_alone_fits_a_line(running: Server) -> None:
    params, history = output("bash", "-euc", snippet("curl", running.url)).splitlines()
    assert json.loads(params) == pytest.approx({"theta": 2, "b": 1}, abs=1e-2)
    step, _, _, loss, applied, _ = history.split(",")
    assert (step, applied) == ("60", "true")
    assert float(loss) < 1e-3


def test_the_sdk_finds_the_target(running: Server) -> None:
    printed = output(sys.executable, "-c", snippet("python", running.url))
    w = [float(number) for number in re.findall(r"-?\d+\.\d*", printed)[:3]]
    assert w == pytest.approx([1.0, -2.0, 0.5], abs=1e-2)


def test_fetch_alone_finds_the_target(running: Server) -> None:
    printed = output("node", "--input-type=module", "-e", snippet("javascript", running.url))
    assert json.loads(printed) == pytest.approx([3, -1], abs=1e-1)
