"""Many connections at once, each with a request under way, served by one thread.

What is measured is the server: a request is ready before it is due, and of an
answer only the length is looked at.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial

from bench.turns import turn_about

Request = Callable[[int], bytes]
"""Returns the n-th request of a connection, from 1."""

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_GOOD = (b"HTTP/1.1 2", b"HTTP/1.1 304")
_BLOCK = 1 << 18


def get(path: str, **headers: str) -> Request:
    """Return what asks for the same again and again."""
    lines = [f"GET {path} HTTP/1.1", "Host: bench", *(f"{k}: {v}" for k, v in headers.items())]
    message = "\r\n".join(lines).encode() + _END
    return lambda _: message


def seconds_each(
    asked: Mapping[str, tuple[int, Sequence[Request]]], *, rounds: int, times: int
) -> dict[str, list[float]]:
    """Return the seconds of one request where many are under way, in each round.

    Args:
        asked: by name, a server's port, and what each connection to it asks for.
        rounds: how often each has its turn.
        times: how many requests a turn has, at least one for each connection.
    """
    with ExitStack() as running:
        crowds = {
            name: running.enter_context(closing(Crowd(*whom))) for name, whom in asked.items()
        }
        each = {name: -(-times // len(requests)) for name, (_, requests) in asked.items()}
        turns = {name: partial(crowd.ask, each[name]) for name, crowd in crowds.items()}
        measured = turn_about(turns, rounds=rounds, calls=1)
    return {
        name: [seconds / (each[name] * len(asked[name][1])) for seconds in measured[name]]
        for name in asked
    }


class Crowd:
    """As many connections to a port as there are kinds of requests."""

    def __init__(self, port: int, requests: Sequence[Request]) -> None:
        self._callers = [_Caller(port, request) for request in requests]

    def close(self) -> None:
        """Hang up."""
        for caller in self._callers:
            caller.close()

    def ask(self, times: int) -> None:
        """Have every connection make so many requests, one after the other.

        Raises:
            RuntimeError: an answer is an error, or a connection was closed.
        """
        for caller in self._callers:
            caller.connect()
        left = {caller.fileno(): times for caller in self._callers}
        callers = {caller.fileno(): caller for caller in self._callers}
        poll = select.poll()
        for number, caller in callers.items():
            poll.register(number, select.POLLIN)
            caller.send()
        while left:
            for number, _ in poll.poll():
                if not callers[number].received():
                    continue
                left[number] -= 1
                if left[number]:
                    callers[number].send()
                else:
                    poll.unregister(number)
                    del left[number]


class _Caller:
    """One connection, one request at a time."""

    def __init__(self, port: int, request: Request) -> None:
        self._port = port
        self._socket = self._connected()
        self._request = request
        self._asked = 1
        self._next = request(1)
        self._answer = bytearray()

    def connect(self) -> None:
        """Connect again if the server has let go of what was idle for so long."""
        if select.select([self._socket], [], [], 0)[0]:
            self._socket.close()
            self._socket = self._connected()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self) -> None:
        """Send the request that is due, and make the next one."""
        self._answer.clear()
        self._socket.sendall(self._next)
        self._asked += 1
        self._next = self._request(self._asked)

    def received(self) -> bool:
        """Receive what is there; return whether that was the end of the answer."""
        block = self._socket.recv(_BLOCK)
        self._answer += block
        if not block or not self._answer.startswith(_GOOD):
            raise RuntimeError(f"the server says: {bytes(self._answer[:1000])!r}")
        head = self._answer.find(_END)
        return head >= 0 and len(self._answer) >= head + len(_END) + self._length(head)

    def close(self) -> None:
        self._socket.close()

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def _length(self, end: int) -> int:
        """Return the length of the body after a head that ends there."""
        start = self._answer.lower().find(_LENGTH, 0, end)
        if start < 0:
            return 0
        start += len(_LENGTH)
        return int(self._answer[start : self._answer.find(b"\r\n", start)])
