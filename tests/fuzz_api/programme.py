"""The OpenAPI document against a server: what it promises, asked for at random.

``make fuzz`` starts the service with its sessions in memory, lets schemathesis
send what the service's own ``/openapi.json`` allows and forbids, and holds every
answer against it. The figures are the server's: what it has counted itself.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import httpx
from server_process import Server, server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
PHASES = ("examples", "coverage", "fuzzing", "stateful")
_COUNTED = re.compile(r'^gradstep_requests_total\{.*status="(\dxx)"\} (\S+)$', re.MULTILINE)
_LIMITS = ("--max-sessions", "1000000", "--no-access-log")
"""The quota of sessions is answered with a 507, which is no failure to look for here."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--examples", type=int, default=100, help="of each operation and phase")
    parser.add_argument("--seconds", type=int, default=600, help="go on until they are spent")
    parser.add_argument("--at-least", type=int, default=50_000, help="calls")
    parser.add_argument("--phases", default=",".join(PHASES))
    return parser.parse_args()


def _schemathesis(url: str, asked: argparse.Namespace, folder: str) -> int:
    """Run it until it ends; return its exit code, 0 where it has found nothing."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--phases", asked.phases]
    command += ["--seed", str(asked.seed), "--max-examples", str(asked.examples)]
    command += ["--generation-database", "none", "--suppress-health-check", "all"]
    command += ["--continue-on-failure", "--no-shrink", "--no-color", "--warnings", "off"]
    command += ["--request-timeout", "60", "--max-time", str(asked.seconds)]
    settings = {"SCHEMATHESIS_HOOKS": "fuzz_api.hooks", "PYTHONUNBUFFERED": "1"}
    ended = subprocess.run(command, env={**os.environ, **settings}, cwd=folder, check=False)
    return ended.returncode


def counted(page: str) -> Counter[str]:
    """Return how many requests a page of metrics tells of, by the class of their status."""
    calls: Counter[str] = Counter()
    for status, number in _COUNTED.findall(page):
        calls[status] += int(float(number))
    return calls


def _calls(running: Server) -> Counter[str]:
    return counted(httpx.get(f"{running.url}/metrics", timeout=60).text)


def main() -> int:
    """Fuzz; return 0 where there were enough calls and nothing was found."""
    asked = _arguments()
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "data", *_LIMITS, store="memory://") as running,
    ):
        began = datetime.now(UTC)
        code = _schemathesis(running.url, asked, folder)
        took = (datetime.now(UTC) - began).total_seconds()
        calls = _calls(running)
        resident = running.process.memory_info().rss
    by_class = ", ".join(f"{calls[status]:,} x {status}" for status in sorted(calls))
    print(f"{began:%Y-%m-%d}, seed {asked.seed}: {calls.total():,} calls in {took:.0f} s")
    print(f"{by_class}, {calls['5xx']} x 5xx; {resident / 2**20:.0f} MiB at the end")
    print("schemathesis found nothing" if code == 0 else f"schemathesis ended with {code}")
    enough = calls.total() >= asked.at_least
    if not enough:
        print(f"fewer than {asked.at_least:,} calls: say --seconds")
    return 0 if enough and code == 0 and not calls["5xx"] else 1


if __name__ == "__main__":
    sys.exit(main())
