"""Compiled loops are found again on a read-only root, and never fail to run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from numba.core import config

from gradstep_server import kernel_cache

UNWRITABLE = Path("/dev/null/kernels")

STEP = """
from gradstep_server.optimizers import Compute, warm_up
from gradstep_server.optimizers.adam import adam_step
warm_up(Compute(1))
print(sum(adam_step.stats.cache_hits.values()), sum(adam_step.stats.cache_misses.values()))
"""


@pytest.fixture
def cache_dir(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let a test set Numba's cache folder, and put it back."""
    monkeypatch.setattr(config, "CACHE_DIR", config.CACHE_DIR)
    return monkeypatch


def test_a_writable_home_is_left_to_numba(tmp_path: Path, cache_dir: pytest.MonkeyPatch) -> None:
    cache_dir.setattr(config, "CACHE_DIR", "")
    assert kernel_cache.settle(tmp_path)
    assert config.CACHE_DIR == ""


def test_an_unwritable_cache_is_replaced_by_a_private_folder(
    cache_dir: pytest.MonkeyPatch,
) -> None:
    cache_dir.setattr(config, "CACHE_DIR", str(UNWRITABLE))
    assert kernel_cache.settle(UNWRITABLE)
    private = Path(config.CACHE_DIR)
    assert private.is_dir()
    assert private.stat().st_mode & 0o777 == 0o700


def test_what_was_compiled_before_is_copied_to_the_private_folder(
    tmp_path: Path, cache_dir: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adam").mkdir()
    (tmp_path / "adam" / "step.nbi").write_bytes(b"compiled")
    cache_dir.setattr(config, "CACHE_DIR", str(tmp_path))
    cache_dir.setattr(kernel_cache, "_writable", lambda _: False)
    assert kernel_cache.settle(tmp_path)
    private = Path(config.CACHE_DIR)
    assert private != tmp_path
    assert (private / "adam" / "step.nbi").read_bytes() == b"compiled"


def test_with_no_place_at_all_it_says_so(
    cache_dir: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache_dir.setattr(config, "CACHE_DIR", str(UNWRITABLE))
    cache_dir.setattr(tempfile, "tempdir", str(UNWRITABLE))
    with caplog.at_level(logging.WARNING):
        assert not kernel_cache.settle(UNWRITABLE)
    assert "compiled at every start" in caplog.text


def test_the_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def hits_and_misses() -> list[int]:
        command = [sys.executable, "-c", STEP]
        printed = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        return [int(number) for number in printed.stdout.split()]

    assert hits_and_misses() == [0, 2]
    assert hits_and_misses() == [2, 0]
