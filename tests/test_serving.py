"""Listening, and what the banner says."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from pydantic import ByteSize
from server_process import COMMAND, PATIENCE

from gradstep_server.app import make_store
from gradstep_server.ending import CannotRun
from gradstep_server.serving import banner, listen
from gradstep_server.settings import Settings


def test_port_0_becomes_a_number_that_answers() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert port > 0
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connected:
            assert connected.getpeername()[1] == port


def test_the_socket_is_handed_to_workers() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.get_inheritable()


def test_an_address_that_is_not_ours_is_refused() -> None:
    # 192.0.2.1 is kept for documentation (RFC 5737): no machine has it.
    with pytest.raises(CannotRun, match=r"on 192\.0\.2\.1:0: Cannot assign") as caught:
        listen("192.0.2.1", 0)
    assert caught.value.exit_code == 1


def test_the_banner_says_where_the_service_is_and_what_it_promises() -> None:
    settings = Settings(
        store="memory://",
        max_body_size=ByteSize(2**20),
        memory_budget=ByteSize(2**30),
        max_tensors=7,
    )
    store = make_store(settings)
    lines = [
        line.split(maxsplit=1)
        for line in banner(settings, store, 4321, "3 in keys.jsonl").splitlines()[1:]
    ]
    assert dict(lines) == {
        "address": "http://127.0.0.1:4321",
        "docs": "http://127.0.0.1:4321/docs",
        "store": store.url,
        "durability": store.durability,
        "keys": "3 in keys.jsonl",
        "limits": "1.0 MiB a body, 7 tensors, 1.0 GiB of sessions in memory",
        "workers": "1",
    }


def test_an_ipv6_address_stands_in_brackets() -> None:
    settings = Settings(host="::1", store="memory://")
    assert "http://[::1]:80/docs" in banner(settings, make_store(settings), 80, "")


def test_a_unix_socket_has_no_page_to_open() -> None:
    settings = Settings(uds=Path("/run/x.sock"), store="memory://")
    lines = banner(settings, make_store(settings), None, "").splitlines()
    assert lines[1].split() == ["address", "unix:/run/x.sock"]
    assert not any("http" in line for line in lines)


def test_a_service_whose_output_finds_no_space_serves(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port)],
            stdout=full,
            stderr=full,
            env={**os.environ, "GRADSTEP_STORE": f"sqlite:///{tmp_path / 'data'}"},
        )
    try:
        assert _ready(process, port)
    finally:
        process.kill()
        process.wait(PATIENCE)


def _ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether a process is ready before it ends, or patience does."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE).is_success
        except httpx.TransportError:
            time.sleep(0.05)
    return False
