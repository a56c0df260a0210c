"""The memory that there is: the machine's, or less."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from gradstep_server.memory_limit import memory_limit

MIB = 2**20


def limited(tmp_path: Path, own: str, **files: str) -> int:
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    return memory_limit(tmp_path / "groups", tmp_path / "own")


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none", tmp_path / "none") == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/", "memory.max"),
        ("0::/a/b\n", "a/b/memory.max"),
        ("0::/outside", "memory.max"),
        ("7:cpu,memory:/a\n0::/", "memory/a/memory.limit_in_bytes"),
        ("7:memory:/docker/1234", "memory/memory.limit_in_bytes"),
    ],
)
def test_a_group_leaves_less(tmp_path: Path, own: str, file: str) -> None:
    assert limited(tmp_path, own, **{file: f"{512 * MIB}\n"}) == 512 * MIB


def test_the_tightest_limit_counts_and_none_is_none(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "a/memory.max": f"{64 * MIB}", "b/memory.max": f"{MIB}"}
    assert limited(tmp_path, "0::/a", **files) == 64 * MIB


def test_version_1_says_no_limit_with_a_huge_number(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": "9223372036854771712"}
    assert limited(tmp_path, "3:memory:/", **files) == psutil.virtual_memory().total
