"""Connections of the SDK's own transports: how they are made, kept, given up, and waited for."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from scripted_server import PATIENCE, ScriptedServer, answers, received
from wire_clients import FORMS, fetching, loopback

from gradstep import _pool, _wires
from gradstep._wires import Place

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
AT_ONCE = struct.pack("ii", 1, 0)
"""Lingering for no time: a close resets the connection, and not even one byte can be sent on it."""

each_form = pytest.mark.parametrize("form", FORMS)


@each_form
def test_a_connection_is_used_again(form: str) -> None:
    script = answers(OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", OK)
    with ScriptedServer(script) as server, fetching(form, loopback(server.port)) as fetch:
        assert [fetch(method).content for method in ("GET", "POST", "PUT")] == [b"ok", b"", b"ok"]


@each_form
@pytest.mark.parametrize(
    "last",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\n",
    ],
    ids=["close", "1.0", "no length", "too much"],
)
def test_a_connection_that_may_carry_no_other_request_is_closed(form: str, last: bytes) -> None:
    with (
        ScriptedServer(answers(last), answers(OK)) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        assert fetch("GET").content == b"ok"
        assert fetch("GET").content == b"ok"


@each_form
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_closed_between_requests_is_replaced(form: str, *, reset: bool) -> None:
    closed = threading.Event()

    def run(connection: socket.socket) -> None:
        received(connection)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        connection.sendall(OK)
        connection.close()
        closed.set()

    with (
        ScriptedServer(run, answers(OK)) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        fetch("GET")
        assert closed.wait(PATIENCE)
        assert fetch("POST", b"body").content == b"ok"


@each_form
def test_a_request_is_sent_anew_if_none_of_it_could_be_sent(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The close that is seen only by the send."""
    monkeypatch.setattr(_wires.Wire, "quiet", lambda _: True)
    bodies: list[bytes] = []
    gone = threading.Event()

    def run(connection: socket.socket) -> None:
        received(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        connection.sendall(OK)
        connection.close()
        gone.set()

    def again(connection: socket.socket) -> None:
        bodies.append(received(connection)[1])
        connection.sendall(OK)

    with (
        ScriptedServer(run, again) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        fetch("GET")
        assert gone.wait(PATIENCE)
        assert fetch("POST", [b"a" * 100_000, b"b"]).content == b"ok"
    assert bodies == [b"a" * 100_000 + b"b"]


@each_form
def test_a_request_that_may_have_arrived_is_not_sent_again(form: str) -> None:
    def run(connection: socket.socket) -> None:
        received(connection)
        connection.sendall(OK)
        received(connection)

    with (
        ScriptedServer(run) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        fetch("GET")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            fetch("POST", b"body")


@each_form
def test_a_connection_idle_for_long_is_replaced(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "IDLE_SECONDS", 0.0)
    with (
        ScriptedServer(answers(OK), answers(OK)) as server,
        fetching(form, loopback(server.port)) as fetch,
    ):
        assert [fetch("GET").content, fetch("GET").content] == [b"ok", b"ok"]


@contextmanager
def full() -> Iterator[int]:
    """A port whose queue of connections is full, so that another one waits."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@each_form
def test_connecting_takes_no_longer_than_it_may(form: str) -> None:
    with (
        full() as port,
        fetching(form, loopback(port), httpx.Timeout(PATIENCE, connect=0.05)) as fetch,
        pytest.raises(httpx.ConnectTimeout),
    ):
        fetch("GET")


@each_form
def test_sending_waits_no_longer_than_it_may(form: str) -> None:
    impatient = httpx.Timeout(PATIENCE, write=0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        fetching(form, loopback(deaf.getsockname()[1]), impatient) as fetch,
        pytest.raises(httpx.WriteTimeout),
    ):
        fetch("PUT", b"x" * (16 << 20))


@each_form
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1", OK[:-1]], ids=["none", "head", "body"])
def test_receiving_waits_no_longer_than_it_may(form: str, begun: bytes) -> None:
    over = threading.Event()

    def run(connection: socket.socket) -> None:
        received(connection)
        connection.sendall(begun)
        assert over.wait(PATIENCE)

    impatient = httpx.Timeout(PATIENCE, read=0.05)
    with ScriptedServer(run) as server, fetching(form, loopback(server.port), impatient) as fetch:
        with pytest.raises(httpx.ReadTimeout):
            fetch("GET")
        over.set()


@each_form
def test_a_place_among_the_connections_is_awaited_no_longer_than_it_may(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "MAX_CONNECTIONS", 0)
    impatient = httpx.Timeout(PATIENCE, pool=0.05)
    with fetching(form, loopback(1), impatient) as fetch, pytest.raises(httpx.PoolTimeout):
        fetch("GET")


@each_form
def test_failures_give_their_place_back(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool, "MAX_CONNECTIONS", 1)
    short = answers(OK[:-1])
    with (
        ScriptedServer(short, short, answers(OK)) as server,
        fetching(form, loopback(server.port), 1.0) as fetch,
    ):
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                fetch("GET")
        assert fetch("GET").content == b"ok"


@each_form
def test_a_host_is_tried_at_all_its_addresses(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``localhost`` is, where it has ::1 but the server listens on 127.0.0.1 only."""
    with ScriptedServer(answers(OK)) as server:
        port = server.port
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            addresses = [unheard.getsockname(), ("127.0.0.1", port)]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            with fetching(form, Place("somewhere", port)) as fetch:
                assert fetch("GET").content == b"ok"


@each_form
def test_a_host_without_an_address_is_an_error(form: str) -> None:
    with (
        fetching(form, Place("no-such-host.invalid", 80)) as fetch,
        pytest.raises(httpx.ConnectError),
    ):
        fetch("GET")


@each_form
def test_ipv6_is_spoken(form: str) -> None:
    with (
        ScriptedServer(answers(OK), host="::1") as server,
        fetching(form, Place("::1", server.port)) as fetch,
    ):
        assert fetch("GET").content == b"ok"


@each_form
def test_a_unix_socket_needs_no_host(form: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        ScriptedServer(answers(OK), path=path) as server,
        fetching(form, Place("nowhere", 0, uds=str(path))) as fetch,
    ):
        assert server is not None
        assert fetch("PUT", b"body").content == b"ok"


@each_form
def test_nobody_behind_a_unix_socket_is_an_error(form: str, tmp_path: Path) -> None:
    place = Place("nowhere", 0, uds=str(tmp_path / "none"))
    with fetching(form, place) as fetch, pytest.raises(httpx.ConnectError, match="No such file"):
        fetch("GET")


class Echo(BaseHTTPRequestHandler):
    """Answers with what was sent."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@each_form
def test_threads_have_a_connection_each(form: str) -> None:
    everyone = threading.Barrier(4, timeout=PATIENCE)
    found: list[bool] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        with fetching(form, loopback(server.server_port)) as fetch:

            def run(seed: int) -> None:
                everyone.wait()
                body = bytes([seed]) * 100_000
                found.extend(fetch("PUT", body).content == body for _ in range(20))

            threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        server.shutdown()
        serving.join()
    assert found == [True] * 80
