"""Write ``optimizers/<Kind>.json``: the parameters that torch gives when stepped.

Run from the top of the repository, for all kinds or the named ones:

    PYTHONPATH=service:tests python tests/golden/generate_optimizers.py [KIND ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch_optimizers import cases

from gradstep_server.optimizers import OPTIMIZERS

FOLDER = Path(__file__).parent / "optimizers"


def write(kind: str) -> None:
    """Write the golden file of one kind, one case to a line."""
    head = {
        "kind": kind,
        "torch": torch.__version__,
        "generator": "tests/golden/generate_optimizers.py",
        "path": "foreach=False, fused=False",
    }
    lines = ",\n".join(json.dumps(case) for case in cases(kind))
    text = json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{kind}.json").write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:] or OPTIMIZERS:
        write(name)
