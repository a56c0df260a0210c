"""torch.distributed.rpc: a `Stepper` in another process, over TensorPipe.

Where both are on one machine, TensorPipe takes shared memory of its own accord.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch.distributed import rpc

from bench.peers.stepper import Stepper

Call = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def far_stepper(port: int) -> Iterator[Callable[[int], Call]]:
    """Start the other process; yield what makes a stepper of so many elements in it."""
    command = [sys.executable, "-m", "bench.peers.torch_rpc", str(port)]
    with subprocess.Popen(command) as process:  # noqa: S603 - this module
        try:
            _join("client", 1, port)

            def far(size: int) -> Call:
                stepper = rpc.remote("server", Stepper, args=(size,))
                return lambda gradient: stepper.rpc_sync().step(gradient)

            yield far
            rpc.shutdown()
        except BaseException:
            with suppress(RuntimeError):  # raised where it has not begun
                rpc.shutdown(graceful=False)  # first, for it waits for one that has gone
            process.kill()
            raise


def _join(name: str, rank: int, port: int) -> None:
    """Become one of the two processes that call each other."""
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://127.0.0.1:{port}")
    with warnings.catch_warnings(action="ignore"):  # torch warns of what it does by itself
        rpc.init_rpc(  # type: ignore[no-untyped-call] # torch says none
            name, rank=rank, world_size=2, rpc_backend_options=options
        )


def _main() -> None:
    _join("server", 0, int(sys.argv[1]))
    rpc.shutdown()


if __name__ == "__main__":
    _main()
