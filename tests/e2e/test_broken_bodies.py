"""Bodies that end too early, or lie about their length, change nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_process import Server, server
from session_app import SGD, f32, file

BODY = file({"w": f32(1, 2)})
JSON_BODY = b'{"grads": {"w": [1, 2]}}'
LIMIT = 100_000


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("e2e") / "data"
    with server(data, "--max-body-size", str(LIMIT)) as started:
        session = {"optimizer": SGD, "params": {"w": [1.0, 2.0]}}
        assert httpx.put(f"{started.url}/v1/sessions/s", json=session).status_code == 201
        yield started


def _connect(target: Server) -> socket.socket:
    address = httpx.URL(target.url)
    assert address.port is not None
    return socket.create_connection((address.host, address.port), timeout=10)


def _head(*headers: str, media: str = "application/vnd.safetensors") -> bytes:
    lines = ["PUT /v1/sessions/s/steps/1 HTTP/1.1", "Host: x", f"Content-Type: {media}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def _answer(connection: socket.socket) -> bytes:
    """Read until the server has nothing more to say for a moment, or hangs up."""
    connection.settimeout(2)
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
            if b"\r\n\r\n" in received:
                connection.settimeout(0.2)
    except (TimeoutError, ConnectionResetError):
        pass
    return received


def _unchanged(target: Server) -> bool:
    shown = httpx.get(f"{target.url}/v1/sessions/s").json()
    params = httpx.get(f"{target.url}/v1/sessions/s/params").content
    return (shown["step"], shown["seq"]) == (0, 1) and params.endswith(f32(1, 2).tobytes())


@pytest.mark.parametrize("half_closed", [True, False])
@pytest.mark.parametrize("sent", [0, 1, 8, len(BODY) - 1])
def test_a_body_that_is_cut_off_changes_nothing(
    target: Server, sent: int, half_closed: bool
) -> None:
    with _connect(target) as connection:
        connection.sendall(_head(f"Content-Length: {len(BODY)}") + BODY[:sent])
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 2" not in _answer(connection)
    assert _unchanged(target)


def test_a_connection_that_is_reset_in_a_body_changes_nothing(target: Server) -> None:
    connection = _connect(target)
    connection.sendall(_head(f"Content-Length: {len(BODY)}") + BODY[:20])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert _unchanged(target)


def test_a_chunked_body_that_is_cut_off_changes_nothing(target: Server) -> None:
    with _connect(target) as connection:
        chunk = b"%x\r\n%b\r\n" % (len(BODY), BODY)
        connection.sendall(_head("Transfer-Encoding: chunked") + chunk)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 2" not in _answer(connection)
    assert _unchanged(target)


@pytest.mark.parametrize(
    ("headers", "body", "media", "status"),
    [
        (["Content-Length: 10"], JSON_BODY, "application/json", b"400"),
        ([f"Content-Length: {len(BODY) - 4}"], BODY, "application/vnd.safetensors", b"4"),
        (["Content-Length: -1"], BODY, "application/vnd.safetensors", b"400"),
        (["Content-Length: ten"], BODY, "application/vnd.safetensors", b"400"),
        (["Content-Length: 99999999999999999999"], b"", "application/vnd.safetensors", b"400"),
        (["Content-Length: 48", "Content-Length: 4"], BODY, "application/json", b"400"),
        (["Transfer-Encoding: chunked"], b"zz\r\n", "application/json", b"400"),
        ([f"Content-Length: {LIMIT + 1}"], b"", "application/json", b"413"),
        (["Content-Length: 10000000000"], b"", "application/vnd.safetensors", b"413"),
        ([], b"", "application/vnd.safetensors", b"422"),
    ],
)
def test_a_body_of_another_length_than_announced_changes_nothing(
    target: Server, headers: list[str], body: bytes, media: str, status: bytes
) -> None:
    with _connect(target) as connection:
        connection.sendall(_head(*headers, media=media) + body)
        assert _answer(connection).startswith(b"HTTP/1.1 " + status)
    assert _unchanged(target)


def test_a_chunked_body_beyond_the_limit_is_refused_before_it_ends(target: Server) -> None:
    with _connect(target) as connection:
        chunk = b"%x\r\n%b\r\n" % (LIMIT + 1, bytes(LIMIT + 1))
        connection.sendall(_head("Transfer-Encoding: chunked") + chunk)
        answer = _answer(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"body-too-large"' in answer
    assert _unchanged(target)


def test_an_escaped_slash_reaches_no_other_session(target: Server) -> None:
    for escaped in ("%2Fs", "s%2F", "..%2Fs", "%2e%2e%2fs", "s%00", "s%2Fsteps"):
        answer = httpx.get(f"{target.url}/v1/sessions/{escaped}", follow_redirects=False)
        assert answer.status_code in {307, 404, 405, 422}
    assert _unchanged(target)


def test_announcing_much_costs_the_server_nothing(tmp_path: Path) -> None:
    with server(tmp_path / "data") as target:
        session = {"optimizer": SGD, "params": {"w": [1.0, 2.0]}}
        assert httpx.put(f"{target.url}/v1/sessions/s", json=session).status_code == 201
        before = target.process.memory_info().rss
        liars = [_connect(target) for _ in range(10)]
        for liar in liars:
            liar.sendall(_head(f"Content-Length: {2**30}") + b"lies")
        assert httpx.get(f"{target.url}/livez", timeout=5).status_code == 200
        assert target.process.memory_info().rss - before < 64 * 2**20
        for liar in liars:
            liar.close()
