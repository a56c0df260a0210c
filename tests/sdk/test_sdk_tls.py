"""TLS under the SDK's own transports."""

from __future__ import annotations

import socket
import ssl
import threading

import httpx
import pytest
import trustme
from scripted_server import PATIENCE, Script, ScriptedServer, received
from wire_clients import FORMS, fetching

from gradstep._transports import place_of
from gradstep._wires import Place

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("127.0.0.1")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LARGE = b"x" * (16 << 20)

pytestmark = pytest.mark.parametrize("form", FORMS)


def trusted(port: int) -> Place:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return Place("127.0.0.1", port, tls=context)


def serving() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    return context


def secured(*scripts: Script) -> ScriptedServer:
    return ScriptedServer(*scripts, tls=serving())


def test_bodies_go_both_ways_and_the_connection_is_kept(form: str) -> None:
    def run(connection: socket.socket) -> None:
        body = received(connection)[1]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        connection.sendall(body)
        received(connection)
        connection.sendall(OK)

    with secured(run) as server, fetching(form, trusted(server.port)) as fetch:
        assert fetch("PUT", LARGE).content == LARGE
        assert fetch("GET").content == b"ok"


def test_a_refusal_before_the_body_is_read_is_told(form: str) -> None:
    """Session tickets come at that moment too, and are no answer."""
    heard = threading.Event()

    def run(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        assert heard.wait(PATIENCE)

    with secured(run) as server, fetching(form, trusted(server.port)) as fetch:
        assert fetch("PUT", LARGE).status == 413
        heard.set()


def test_an_answer_cut_off_by_a_stranger_is_an_error(form: str) -> None:
    """The end of an answer without a length must be the server's own word."""

    def run(connection: socket.socket) -> None:
        received(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhal")
        connection.shutdown(socket.SHUT_WR)  # without the server's goodbye

    with (
        secured(run) as server,
        fetching(form, trusted(server.port)) as fetch,
        pytest.raises(httpx.ReadError),
    ):
        fetch("GET")


def test_a_certificate_nobody_vouches_for_is_an_error(form: str) -> None:
    place = place_of(httpx.URL("https://127.0.0.1"), None)
    assert place is not None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        context = serving()

        def run() -> None:
            connection, _ = listening.accept()
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=run)
        thread.start()
        place = Place("127.0.0.1", listening.getsockname()[1], tls=place.tls)
        with (
            fetching(form, place) as fetch,
            pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            fetch("GET")
        thread.join()


def test_a_handshake_takes_no_longer_than_it_may(form: str) -> None:
    impatient = httpx.Timeout(PATIENCE, connect=0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        fetching(form, trusted(silent.getsockname()[1]), impatient) as fetch,
        pytest.raises(httpx.ConnectTimeout, match="TLS"),
    ):
        fetch("GET")
