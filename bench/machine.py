"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from gradstep_server import __version__

_PACKAGES = ("numpy", "numba", "torch")


def described() -> dict[str, Any]:
    """Return the machine, the versions, and how busy it is."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gradstep": __version__,
        **{name: version(name) for name in _PACKAGES},
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    """Return the processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
