"""The settings that say how slow clients may be, and how many, reach the processes."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from server_process import Server, server
from socket_server import answer_of, head, status_of


def connect(target: Server) -> socket.socket:
    place = urlsplit(target.url)
    assert place.hostname is not None
    return socket.create_connection((place.hostname, place.port), timeout=20)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_they_reach_every_process(tmp_path: Path, workers: str) -> None:
    flags = ("--header-timeout", "1", "--keep-alive", "2", "--max-connections", "1")
    with server(tmp_path / "data", "--workers", workers, *flags) as target:
        asked = head(0, path="/livez", method="GET")
        with connect(target) as client:
            client.sendall(asked[:-2])
            began = time.monotonic()
            assert answer_of(client)[0] == 408
            assert 1 <= time.monotonic() - began < 6
        with connect(target) as client:
            client.sendall(asked)
            began = time.monotonic()
            assert answer_of(client)[0] == 200
            assert 2 <= time.monotonic() - began < 4.9  # uvicorn's own is 5
        crowd = [connect(target) for _ in range(6)]
        for client in crowd:
            client.sendall(head(0, path="/version", method="GET"))
        statuses = [answer_of(client)[0] for client in crowd]
        assert 503 in statuses
        assert statuses.count(200) <= int(workers)
        for client in crowd:
            client.close()


def test_a_process_that_is_full_still_says_how_it_is(tmp_path: Path) -> None:
    with (
        server(tmp_path / "data", "--max-connections", "1") as target,
        connect(target) as kept,
    ):
        kept.sendall(head(0, path="/version", method="GET"))
        assert status_of(kept) == 200
        for path in ("/livez", "/readyz", "/metrics"):
            with connect(target) as client:
                client.sendall(head(0, path=path, method="GET"))
                assert answer_of(client)[0] == 200
