"""Write ``schedulers/<Kind>.json``: the curves that torch or transformers give when stepped.

Run from the top of the repository, for all kinds or the named ones:

    PYTHONPATH=service:tests python tests/golden/generate_schedulers.py [KIND ...]

Hugging Face's kinds need transformers (``pip install '.[conformance]'``).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch_schedules import cases

from gradstep_server.schedulers import SCHEDULERS

FOLDER = Path(__file__).parent / "schedulers"


def write(kind: str) -> None:
    """Write the golden file of one kind, one case to a line."""
    head = {
        "kind": kind,
        "torch": torch.__version__,
        "generator": "tests/golden/generate_schedulers.py",
        "path": "chained",
    }
    library, _, _ = SCHEDULERS[kind].reference.partition(".")
    if library:
        head[library] = version(library)
    lines = ",\n".join(json.dumps(case) for case in cases(kind))
    text = json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n"
    (FOLDER / f"{kind}.json").write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:] or SCHEDULERS:
        write(name)
