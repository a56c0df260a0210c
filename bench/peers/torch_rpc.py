"""torch.distributed.rpc: a `Stepper` in one process, called from another, over TensorPipe.

Where both are on one machine, TensorPipe takes shared memory of its own accord,
and a thread in each process looks for messages without ever resting. So the two
are stopped but for their turns: all others would have what they leave of two cores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch.distributed import rpc

from bench.peers.stepper import Stepper
from bench.turns import Turn, no_garbage_collection, turn_of

PATIENCE = 120.0
"""Seconds that they have to begin, to answer, and to end."""


@contextmanager
def far_steppers(port: int) -> Iterator[FarSteppers]:
    """Start both processes; yield what has its turns in them."""
    command = [sys.executable, "-m", __name__, str(port)]
    pipe, theirs = Pipe()
    with ExitStack() as running:
        running.enter_context(pipe)
        processes = []
        with theirs:
            number = theirs.fileno()
            # The pipe is the caller's alone, so that its end is noticed when it dies.
            for role, passed in ((["server"], []), (["caller", str(number)], [number])):
                process = subprocess.Popen(  # noqa: S603 - this module
                    [*command, *role], pass_fds=passed
                )
                processes.append(running.enter_context(process))
                running.callback(process.kill)
        far = FarSteppers([process.pid for process in processes], pipe)
        yield far
        far.end()
        for process in processes:
            process.wait(PATIENCE)


class FarSteppers:
    """One for each size, stopped but for its turns."""

    def __init__(self, pids: list[int], pipe: Connection[tuple[int, int] | None, float]) -> None:
        """Wait until the processes know each other."""
        self._pids = pids
        self._pipe = pipe
        self._answer()
        self._signal(signal.SIGSTOP)

    def stepper(self, elements: int) -> Turn:
        """Return the turns of a stepper of so many elements."""

        def turn(calls: int) -> float:
            self._signal(signal.SIGCONT)
            try:
                self._pipe.send((elements, calls))
                return self._answer()
            finally:
                self._signal(signal.SIGSTOP)

        return turn

    def end(self) -> None:
        """Let them take leave of each other."""
        self._signal(signal.SIGCONT)
        self._pipe.send(None)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)

    def _answer(self) -> float:
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError("torch.distributed.rpc does not answer")
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("the caller of torch.distributed.rpc has ended") from None


def _join(name: str, rank: int, port: int) -> None:
    """Become one of the two processes that call each other."""
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://127.0.0.1:{port}")
    with warnings.catch_warnings(action="ignore"):  # torch warns of what it does by itself
        rpc.init_rpc(  # type: ignore[no-untyped-call] # torch says none
            name, rank=rank, world_size=2, rpc_backend_options=options
        )


@cache
def _turn(elements: int) -> Turn:
    """Return the turns of calling a new stepper."""
    stepper = rpc.remote("server", Stepper, args=(elements,))
    gradient = torch.from_numpy(np.random.default_rng(1).standard_normal(elements, np.float32))
    return turn_of(lambda: stepper.rpc_sync().step(gradient))


def _call(pipe: Connection[float, tuple[int, int] | None]) -> None:
    """Take the turns that are asked for, until none will be."""
    pipe.send(0.0)  # ready
    with no_garbage_collection():
        while (asked := pipe.recv()) is not None:
            elements, calls = asked
            pipe.send(_turn(elements)(calls))


def _main() -> None:
    port, role, *numbers = sys.argv[1:]
    _join(role, ["server", "caller"].index(role), int(port))
    if role == "caller":
        _call(Connection(int(numbers[0])))
    rpc.shutdown()


if __name__ == "__main__":
    _main()
