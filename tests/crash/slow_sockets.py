"""Clients that send a byte now and then, a thousand in one cheap loop, and when each was let go."""

from __future__ import annotations

import errno
import heapq
import selectors
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

Part = Literal["head", "body"]
PARTS: tuple[Part, ...] = ("head", "body")
SESSION = "/v1/sessions/slow"
"""Where all of them send."""

_BYTE_EVERY = 3.0
"""Seconds between two bytes of a connection."""

_LENGTH = 100_000
_RETRY = 0.1
"""Seconds after which a connection that was refused is tried again."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """The end of a slow connection."""

    part: Part
    """Where in its request it was."""

    seconds: float
    """How long it was open."""

    said: bytes
    """What the server has sent, its first bytes."""


class _Slow:
    """One connection after the other, each as slow."""

    def __init__(self, place: tuple[str, int], part: Part) -> None:
        self.part: Part = part
        self.said = b""
        self._place = place
        self.since = 0.0
        self.socket: socket.socket | None = None

    def connect(self) -> bool:
        """Connect and begin a request; return whether that could be done."""
        client = socket.socket()
        try:
            client.settimeout(1)
            client.connect(self._place)
            client.setblocking(False)
            client.send(_BEGUN[self.part])
        except OSError:
            client.close()
            return False
        self.socket, self.since, self.said = client, time.monotonic(), b""
        return True

    def send(self) -> None:
        """Send a byte."""
        assert self.socket is not None
        try:
            self.socket.send(b"x")
        except OSError as error:  # that the server has closed is seen where it is read
            if error.errno not in {errno.EAGAIN, errno.EPIPE, errno.ECONNRESET}:
                raise

    def ended(self) -> bool:
        """Read what has come; return whether that was the end."""
        assert self.socket is not None
        try:
            piece = self.socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        self.said = self.said or piece[:64]
        return not piece

    def close(self) -> LetGo:
        """Say how the connection ended."""
        assert self.socket is not None
        self.socket.close()
        self.socket = None
        return LetGo(self.part, time.monotonic() - self.since, self.said)


_BEGUN: dict[Part, bytes] = {
    "head": f"PUT {SESSION}/steps/1 HTTP/1.1\r\nHost: slow\r\nX-Slow: ".encode(),
    "body": (
        f"PUT {SESSION}/steps/1 HTTP/1.1\r\nHost: slow\r\n"
        f"Content-Type: application/vnd.safetensors\r\nContent-Length: {_LENGTH}\r\n\r\n"
    ).encode(),
}


def dribble(place: tuple[str, int], each: int, seconds: float, told: Connection) -> None:
    """Keep so many connections of each part open, and tell how those that ended have ended.

    Args:
        place: the server's address.
        each: how many stop within a head, and how many within a body.
        seconds: for how long, from when all are open.
        told: gets None when they are, and a list of `LetGo` at the end. A connection that is
            open then is in it, with ``b"open"`` for what was said.
    """
    slow = [_Slow(place, part) for part in PARTS for _ in range(each)]
    ended: list[LetGo] = []
    began = time.monotonic()
    due = [(began + number * _BYTE_EVERY / len(slow), number) for number in range(len(slow))]
    until = began + _BYTE_EVERY + seconds
    is_told = False
    with selectors.DefaultSelector() as selector:
        while (now := time.monotonic()) < until:
            while due[0][0] <= now:
                number = due[0][1]
                heapq.heapreplace(due, (now + _act(slow[number], selector), number))
            if not is_told and now > began + _BYTE_EVERY:
                is_told = True
                told.send(None)
            for key, _ in selector.select(min(max(due[0][0] - now, 0.0), 0.1)):
                if key.data.ended():
                    selector.unregister(key.fileobj)
                    ended.append(key.data.close())
        for one in slow:
            if one.socket is not None:
                one.said = b"open"
                ended.append(one.close())
    told.send(ended)


def _act(one: _Slow, selector: selectors.BaseSelector) -> float:
    """Connect, or send a byte; return the seconds until there is something to do again."""
    if one.socket is not None:
        one.send()
    elif one.connect():
        assert one.socket is not None
        selector.register(one.socket, selectors.EVENT_READ, one)
    else:
        return _RETRY
    return _BYTE_EVERY
