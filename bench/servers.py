"""Servers in processes of their own, on the loopback, that end with the block that uses them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

import gradstep

PATIENCE = 120.0
"""Seconds after which a server that should start, or end, is said not to."""

_GRACE = 10.0
"""Seconds that it has to end by itself."""

_GRADSTEP = (sys.executable, "-c", "from gradstep_server.cli import main; main()")


@contextmanager
def gradstep_server(
    *flags: str, store: str = "memory://", uds: Path | None = None
) -> Iterator[Service]:
    """Run our service."""
    port = free_port()
    where = ["--uds", str(uds)] if uds else ["--port", str(port)]
    command = [*_GRADSTEP, "--store", store, "--log-level", "warning", *where, *flags]
    service = Service(port, uds)
    with running(command, service.ready) as pid:
        service.pid = pid
        yield service


class Service:
    """Where a running service of ours is."""

    def __init__(self, port: int, uds: Path | None) -> None:
        self.port = port
        self.pid = 0
        self._uds = uds
        self._tcp = ("127.0.0.1", port)

    def client(self) -> gradstep.Client:
        """Return a client of it."""
        if self._uds is not None:
            return gradstep.Client(uds=self._uds, timeout=PATIENCE)
        return gradstep.Client(f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    def async_client(self) -> gradstep.AsyncClient:
        """Return a client of it for asyncio, over TCP."""
        return gradstep.AsyncClient(f"http://127.0.0.1:{self.port}", timeout=PATIENCE)

    def ready(self) -> bool:
        """Say whether it is ready to take requests."""
        if not (_listens(str(self._uds), socket.AF_UNIX) if self._uds else _listens(self._tcp)):
            return False
        way = httpx.HTTPTransport(uds=str(self._uds)) if self._uds else None
        with httpx.Client(transport=way, timeout=PATIENCE) as http:
            return http.get(f"http://127.0.0.1:{self.port}/readyz").is_success


@contextmanager
def peer(name: str, *flags: str) -> Iterator[int]:
    """Run one of `bench.peers`; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", f"bench.peers.{name}", str(port), *flags]
    with running(command, lambda: _listens(("127.0.0.1", port))):
        yield port


def _listens(address: str | tuple[str, int], family: int = socket.AF_INET) -> bool:
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], ready: Callable[[], bool]) -> Iterator[int]:
    """Run a command, ready, as long as the block lasts; yield its process's id.

    It leads a group of its own, which goes with it.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            until = time.monotonic() + PATIENCE
            while not ready():
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    msg = f"{' '.join(command)} does not start: {log.read().decode()}"
                    raise RuntimeError(msg)
                time.sleep(0.02)
            yield process.pid
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make it."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill_group(process.pid)
        process.wait()


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
