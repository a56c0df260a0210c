"""Connections for peers, leaner than their users have, so that nothing is held against them."""

from __future__ import annotations

import http.client
import select
import socket

from bench.peers.raw_echo import receive


class Line:
    """One connection over HTTP: sends from where the bytes are, receives into one buffer."""

    def __init__(self, port: int, room: int) -> None:
        """Connect; no answer is longer than `room`."""
        self._http = http.client.HTTPConnection("127.0.0.1", port)
        self._room = memoryview(bytearray(room))

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def ask(
        self, method: str, path: str, body: bytes | memoryview = b"", media_type: str = ""
    ) -> memoryview:
        """Send a request; return the answer, which the next one overwrites."""
        if self._http.sock is not None and select.select([self._http.sock], [], [], 0)[0]:
            self._http.close()  # it was idle for so long that the server has let go of it
        self._http.request(method, path, body, {"Content-Type": media_type} if media_type else {})
        response = self._http.getresponse()
        size = 0
        while received := response.readinto(self._room[size:]):
            size += received
        if response.status >= http.client.BAD_REQUEST:
            raise RuntimeError(bytes(self._room[:size]).decode())
        return self._room[:size]


class RawLine:
    """One connection to the raw echo."""

    def __init__(self, port: int, size: int) -> None:
        """Connect, for messages of `size` bytes."""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = size.to_bytes(8, "little")
        self._room = memoryview(bytearray(size))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, body: memoryview) -> None:
        """Send a message, and receive it back."""
        sent = self._socket.sendmsg([self._head, body]) - len(self._head)
        self._socket.sendall(body[sent:])
        receive(self._socket, self._room)
