"""The bench's own clients measure what they say, and tell when a server does not play along."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from bench import servers
from bench.crowd import Crowd, get, seconds_each
from bench.line import Line, RawLine
from bench.servers import peer, running


@contextmanager
def scripted(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Serve one connection after the other: each request the next answer, and none closes."""
    heard: list[bytes] = []
    waiting = list(answers)

    def serve() -> None:
        while waiting:
            connection, _ = listening.accept()
            with connection:
                while waiting and (request := connection.recv(65536)):
                    heard.append(request)
                    if not (answer := waiting.pop(0)):
                        break
                    for piece in answer.split(b"|"):
                        connection.sendall(piece)
                        time.sleep(0.01)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard
        thread.join(5)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


def test_an_answer_ends_where_its_length_says_in_however_many_pieces() -> None:
    pieces = b"HTTP/1.1 200 OK\r\nCont|ent-Length: 4\r\n\r|\nbo|dy"
    with scripted(pieces, b"HTTP/1.1 304 Not Modified\r\n\r\n", OK) as (port, heard):
        with closing(Crowd(port, [lambda n: b"request %d" % n])) as crowd:
            crowd.ask(3)
        assert heard == [b"request 1", b"request 2", b"request 3"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b""])
def test_an_error_is_no_answer(answer: bytes) -> None:
    with scripted(answer) as (port, _), closing(Crowd(port, [get("/")])) as crowd:  # noqa: SIM117 - as it reads
        with pytest.raises(RuntimeError, match="the server says"):
            crowd.ask(1)


def test_a_connection_that_the_server_let_go_is_made_again() -> None:
    with peer("empty") as port, closing(Crowd(port, [get("/")])) as crowd:
        crowd.ask(1)
        [caller] = crowd._callers
        caller._socket.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        crowd.ask(2)


def test_a_line_that_the_server_let_go_is_made_again() -> None:
    with peer("uvicorn_echo") as port, closing(Line(port, 10)) as line:
        assert bytes(line.ask("PUT", "/", b"one")) == b"one"
        line._http.sock.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        assert bytes(line.ask("PUT", "/", b"two")) == b"two"


def test_a_turn_is_shared_among_all_its_requests() -> None:
    with peer("empty") as port:
        crowds = {"one": (port, [get("/")]), "four": (port, [get("/")] * 4)}
        measured = seconds_each(crowds, rounds=3, times=8)
    assert {name: len(seconds) for name, seconds in measured.items()} == {"one": 3, "four": 3}
    assert all(0 < each < 1 for seconds in measured.values() for each in seconds)


def test_an_echo_is_what_was_sent() -> None:
    body = os.urandom(300_000)
    with peer("uvicorn_echo") as port, closing(Line(port, len(body))) as line:
        assert line.ask("PUT", "/", body) == body
        assert bytes(line.ask("PUT", "/", b"less")) == b"less"
    with peer("raw_echo") as port, closing(RawLine(port, len(body))) as raw:
        raw.ask(memoryview(body))
        assert raw._room == body


def test_a_peer_that_refuses_says_why() -> None:
    with peer("naive") as port, closing(Line(port, 4096)) as line:  # noqa: SIM117 - as it reads
        with pytest.raises(RuntimeError, match="missing"):
            line.ask("PUT", "/json/3", b"{}", "application/json")


def test_a_server_that_does_not_start_tells_its_last_words() -> None:
    command = [sys.executable, "-c", "print('no port is left'); raise SystemExit(3)"]
    with pytest.raises(RuntimeError, match="no port is left"), running(command, lambda: False):
        pass


def test_a_server_that_will_not_end_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_GRACE", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf')"
    command = [sys.executable, "-c", f"{deaf}; time.sleep(600)"]
    with running(command, lambda: True) as pid:
        time.sleep(0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
