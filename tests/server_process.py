"""The service as a process of its own, started through its command."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import psutil

COMMAND = [sys.executable, "-c", "from gradstep_server.cli import main; main()"]
PATIENCE = 30.0
"""Seconds after which a server that should start, or end, is said not to."""


class Process(Protocol):
    """What a server needs of the process it runs in, as of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int, /) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Server:
    """A server on a free port of the loopback, with its data in a directory or a given store."""

    def __init__(
        self,
        data: Path,
        *flags: str,
        store: str | None = None,
        trust: ssl.SSLContext | None = None,
        group: Path | None = None,
    ) -> None:
        """Describe a server.

        Args:
            data: its folder.
            flags: those of the command.
            store: another store than one in that folder.
            trust: what its certificate is checked with.
            group: the control group that it is to run in.
        """
        self._group = group
        self._flags = flags
        self._trust = trust
        self._store = store or f"sqlite:///{data}"
        self.log = data.with_name("log")
        """What it has printed since it was started."""

        self._process: Process | None = None
        self.url = ""
        """Where it is; another address after every start."""

    @property
    def process(self) -> psutil.Process:
        """The running process."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start, and wait until it says that it is ready."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start, and do not wait for anything."""
        self.url = ""
        flags = ["--port", "0", "--log-level", "warning", *self._flags]
        self._process = self._spawn(flags, {"PYTHONUNBUFFERED": "1", "GRADSTEP_STORE": self._store})

    def await_ready(self, page: str = "/readyz") -> None:
        """Wait until it says that it is ready, or on ``/livez`` that it answers at all."""
        assert self._process is not None
        until = time.monotonic() + PATIENCE
        while not self._ready(page):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would: no handler runs."""
        self._signal(signal.SIGKILL)

    def stop(self) -> float:
        """Ask it to end; return how many seconds it took."""
        began = time.monotonic()
        self._signal(signal.SIGTERM)
        return time.monotonic() - began

    def await_end(self) -> None:
        """Wait until it has ended, having been asked to."""
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        children = self.process.children(recursive=True)
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        if number == signal.SIGKILL:
            for child in children:
                child.kill()
        _, left = psutil.wait_procs(children, PATIENCE)
        assert left == []
        self._process = None

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.kill()

    def _spawn(self, flags: list[str], settings: Mapping[str, str]) -> Process:
        with self.log.open("wb") as output:
            return subprocess.Popen(
                [*self._joining(), *COMMAND, *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings},
            )

    def _joining(self) -> list[str]:
        """Return what a command is run by that joins the control group first."""
        if self._group is None:
            return []
        return ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self._group)]

    def _ready(self, page: str) -> bool:
        if not self.url:
            found = re.search(r"https?://127\.0\.0\.1:\d+", self.log.read_text())
            self.url = found[0] if found else ""
            return False
        try:
            answer = httpx.get(f"{self.url}{page}", timeout=PATIENCE, verify=self._trust or True)
        except httpx.TransportError:
            return False
        return answer.status_code == 200


@contextmanager
def server(
    data: Path, *flags: str, store: str | None = None, trust: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Run a server as long as the block lasts; through TLS where it is to be trusted."""
    started = Server(data, *flags, store=store, trust=trust)
    try:
        started.start()
        yield started
    finally:
        started.close()
