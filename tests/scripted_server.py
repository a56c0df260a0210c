"""A server that does with each connection what a script says: for answers that no server gives."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 10.0
"""Seconds after which a script that should go on is said not to."""

Script = Callable[[socket.socket], None]
"""What is done with one connection; it is closed afterwards."""


class ScriptedServer:
    """Accepts as many connections as there are scripts, one after another."""

    def __init__(
        self,
        *scripts: Script,
        host: str = "127.0.0.1",
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._scripts = scripts
        self._tls = tls
        self._failures: list[BaseException] = []
        if path is not None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(str(path))
            self._socket.listen()
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, 0), family=family)
        self._socket.settimeout(PATIENCE)
        self._thread = threading.Thread(target=self._run)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.join()
        self._socket.close()
        if exc is None and self._failures:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            for script in self._scripts:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    self._serve(connection, script)
        except BaseException as failure:  # noqa: BLE001 - raised where the server is used
            self._failures.append(failure)

    def _serve(self, connection: socket.socket, script: Script) -> None:
        if self._tls is None:
            script(connection)
            return
        with self._tls.wrap_socket(connection, server_side=True) as secured:
            script(secured)


def received(connection: socket.socket) -> tuple[str, bytes]:
    """Read one request: its head and its body."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    length = int(found[1]) if found else 0
    while len(body) < length:
        body += _some(connection)
    assert len(body) == length, "more came than one request"
    return head.decode(), bytes(body)


def answers(*texts: bytes) -> Script:
    """Return a script that answers one request with each of these."""

    def run(connection: socket.socket) -> None:
        for text in texts:
            received(connection)
            connection.sendall(text)

    return run


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    assert data, "the client closed the connection within its request"
    return data
