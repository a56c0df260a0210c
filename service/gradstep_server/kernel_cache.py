"""Where compiled loops are kept between starts.

Numba refuses ``cache=True`` at import where it cannot write, even if what it
needs is there to be read, as on a container's read-only root. So the cache is
copied to a private folder that can be written; without one, loops are compiled
anew at every start.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

from numba.core import config

_VARIABLE = "NUMBA_CACHE_DIR"
_log = logging.getLogger(__name__)


def settle(home: Path) -> bool:
    """Point Numba at a cache that can be written, and return whether there is one.

    Args:
        home: the folder of the modules that are compiled; Numba's own choice is
            the ``__pycache__`` in it.
    """
    named = config.CACHE_DIR
    if _writable(Path(named) if named else home):
        return True
    try:
        # Random and private: what lies in it is run.
        copy = tempfile.mkdtemp(prefix="gradstep-kernels-")
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        if named and Path(named).is_dir():
            shutil.copytree(named, copy, dirs_exist_ok=True)
    except OSError as error:
        _log.warning(
            "no place for compiled loops (%s): they are compiled at every start; "
            "set %s or TMPDIR to a folder that can be written",
            error.strerror,
            _VARIABLE,
        )
        return False
    config.CACHE_DIR = copy
    return True


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
