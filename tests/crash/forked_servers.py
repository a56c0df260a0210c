"""Servers that start at once: forked from a process that has imported the service already.

Importing takes longer than a whole cycle of death and recovery. What is forked
runs the service's own command from its first line on, and is killed like any
other process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from server_process import Process, Server

_PROGRAM = "from crash.forked_servers import main; main()"


class Fork:
    """A process that another one forked, held so that its id is never mistaken for another's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        """Return 0 if the process has ended, however it ended."""
        return self._ended(0)

    def send_signal(self, sig: int, /) -> None:
        """Send a signal to the process, which may have ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, sig)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended."""
        ended = self._ended(timeout)
        assert ended is not None, f"process {self.pid} has not ended after {timeout} s"
        return ended

    def _ended(self, timeout: float | None) -> int | None:
        return 0 if select.select([self._descriptor], [], [], timeout)[0] else None


class Nursery:
    """The process that has imported everything, and forks on command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not fork
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def fork(self, log: Path, flags: list[str], settings: Mapping[str, str], threads: int) -> Fork:
        """Run the service's command in a new process that prints to `log`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        log.write_bytes(b"")
        wanted = {"log": str(log), "flags": flags, "settings": dict(settings), "threads": threads}
        print(json.dumps(wanted), file=self._process.stdin, flush=True)
        return Fork(int(self._process.stdout.readline()))


class ForkedServer(Server):
    """A server that a nursery starts."""

    def __init__(self, nursery: Nursery, data: Path, *flags: str, store_threads: int = 16) -> None:
        super().__init__(data, *flags)
        self._nursery = nursery
        self._store_threads = store_threads

    def _spawn(self, flags: list[str], settings: Mapping[str, str]) -> Process:
        return self._nursery.fork(self.log, flags, settings, self._store_threads)


@contextmanager
def forked(
    nursery: Nursery, data: Path, *flags: str, store_threads: int = 16
) -> Iterator[ForkedServer]:
    """Run a forked server as long as the block lasts."""
    started = ForkedServer(nursery, data, *flags, store_threads=store_threads)
    try:
        started.start()
        yield started
    finally:
        started.close()


def main() -> None:
    """Import everything, then fork whenever a line asks for it, until the input ends."""
    from gradstep_server import app  # noqa: F401, PLC0415 - loaded here, so that no fork has to
    from gradstep_server.optimizers import Compute, warm_up  # noqa: PLC0415 - likewise

    warm_up(Compute(1))  # starts no thread
    for line in sys.stdin:
        _reap()
        child = os.fork()
        if child == 0:
            _serve(json.loads(line))
        print(child, flush=True)


def _reap() -> None:
    """Let the ids of ended forks go; until now no other process could have them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _serve(wanted: Mapping[str, Any]) -> None:
    """Become a server. Never returns."""
    from gradstep_server import cli  # noqa: PLC0415 - loaded by `main`
    from gradstep_server.stores.sqlite import store  # noqa: PLC0415 - likewise

    output = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.environ.update(wanted["settings"])
    store._THREADS = wanted["threads"]
    sys.argv = ["gradstep-server", *wanted["flags"]]
    code = 1
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
