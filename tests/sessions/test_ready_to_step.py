"""No request compiles: what a step runs was compiled, or loaded, before the service is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STEPS = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from session_states import by_adamw, config, packed, started, take
from gradstep_server.optimizers import OPTIMIZERS, Compute, warm_up
from gradstep_server.sessions.tensors import DType

compute = Compute(2)
warm_up(compute)
loops = {
    name: loop
    for module in [m for name, m in sys.modules.items() if name.startswith("gradstep_server")]
    for name, loop in vars(module).items()
    if isinstance(loop, Dispatcher)
}
ready = {name: len(loop.signatures) for name, loop in loops.items()}
clips = (None, {"type": "norm", "max_norm": 1.0}, {"type": "value", "value": 0.5})
for kind, optimizer in OPTIMIZERS.items():
    for number, example in enumerate(optimizer.examples):
        for dtype in DType:
            params = {"w": packed(np.ones((3, 2)), dtype), "b": packed(1.0, dtype)}
            clip = clips[number % 3]
            groups = by_adamw({"type": kind}, {name: t.shape for name, t in params.items()})
            settings = config({"type": kind, **example}, dtype, clip=clip, param_groups=groups)
            state = started(settings, params)
            narrow = {DType.F64: DType.F32, DType.F32: DType.BF16}.get(dtype, dtype)
            for sent in (dtype, narrow):
                gradients = {name: packed(np.ones(t.shape), sent) for name, t in params.items()}
                take(state, gradients, compute=compute)
compute.close()
late = [name for name, loop in loops.items() if len(loop.signatures) != ready[name]]
print(len(loops), *late)
"""


def test_no_step_compiles_after_the_warm_up() -> None:
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    printed = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    loops, *late = printed.stdout.split()
    assert int(loops) >= 5
    assert late == []
