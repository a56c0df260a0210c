"""The file of a Unix socket: who may use it, and when it comes and goes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from server_process import COMMAND, PATIENCE

import gradstep
from gradstep_server.ending import CannotRun
from gradstep_server.unix_socket import unix_socket


def connected(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def dead(path: Path) -> None:
    """Leave the file of a socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()


def test_it_listens_as_long_as_the_block_lasts(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_socket(path, 5) as listening:
        assert connected(path)
        assert listening.get_inheritable()
    assert not path.exists()


def test_only_the_user_and_the_group_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    before = os.umask(0)
    try:
        with unix_socket(path, 5):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_what_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    dead(path)
    with unix_socket(path, 5):
        assert connected(path)


def test_the_socket_of_a_server_that_listens_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_socket(path, 5):
        with pytest.raises(CannotRun, match="Address already in use"), unix_socket(path, 5):
            pass
        assert connected(path)


def test_a_server_too_busy_to_be_asked_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_socket(path, 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        with pytest.raises(CannotRun, match="Address already in use"), unix_socket(path, 5):
            pass
        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "taken", tmp_path / "target"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        dead(target)
        path.symlink_to(target)
    with pytest.raises(CannotRun, match="Address already in use"), unix_socket(path, 5):
        pass
    assert path.exists()


@pytest.mark.parametrize(
    ("path", "reason"), [("none/socket", "No such file"), ("x" * 200, "path too long")]
)
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, path: str, reason: str) -> None:
    with pytest.raises(CannotRun, match=reason), unix_socket(tmp_path / path, 5):
        pass


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with unix_socket(path, 5):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_serves_there_and_leaves_nothing(tmp_path: Path, workers: str) -> None:
    path = tmp_path / "socket"
    flags = ["--uds", str(path), "--store", f"sqlite:///{tmp_path}/data", "--workers", workers]
    process = subprocess.Popen(
        [*COMMAND, *flags, "--log-level", "warning"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        banner = [process.stdout.readline() for _ in range(2)]
        assert banner[1].split() == ["address", f"unix:{path}"]
        with gradstep.Client(uds=path, max_retries=20) as client:
            session = client.sessions.create(
                optimizer={"type": "SGD", "lr": 1.0}, params={"w": np.ones(3)}
            )
            assert session.step({"w": np.ones(3)})["w"].tolist() == [0.0, 0.0, 0.0]
        process.terminate()
        assert process.wait(PATIENCE) in {0, -signal.SIGTERM}
        assert not path.exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
