"""Connections to one server: found or made for a request, kept for the next one."""

from __future__ import annotations

import asyncio
import os
import threading
from time import monotonic
from typing import Protocol

import httpx

from gradstep._connection import Connection, Outgoing
from gradstep._http1 import Head
from gradstep._loops import PerLoop
from gradstep._wires import Place, Timeouts, Waiter, Wire

IDLE_SECONDS = 4.0
"""How long an idle connection is kept: less than the 5 after which uvicorn closes it, so that no
request meets the close."""

MAX_CONNECTIONS = 100
"""How many exchanges there may be at once, as with httpx."""


class Gate(Protocol):
    """Lets so many in at once."""

    async def enter(self, seconds: float | None) -> bool:
        """Wait for a place; return whether there was one in time."""
        ...

    def leave(self) -> None:
        """Give the place back."""
        ...


class ThreadGate:
    """A gate for threads."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    async def enter(self, seconds: float | None) -> bool:
        """Wait for a place; return whether there was one in time."""
        return self._places.acquire(timeout=seconds)

    def leave(self) -> None:
        """Give the place back."""
        self._places.release()


class LoopGate:
    """A gate for the tasks of each event loop."""

    def __init__(self) -> None:
        self._places = PerLoop(lambda: asyncio.BoundedSemaphore(MAX_CONNECTIONS))

    async def enter(self, seconds: float | None) -> bool:
        """Wait for a place; return whether there was one in time."""
        places = self._places.get()
        if not places.locked():
            return await places.acquire()  # at once, with no need of a timer
        try:
            async with asyncio.timeout(seconds):
                return await places.acquire()
        except TimeoutError:
            return False

    def leave(self) -> None:
        """Give the place back."""
        self._places.get().release()


class Exchanges:
    """What both transports do: find or make a connection, use it, keep it."""

    def __init__(self, place: Place, waiter: Waiter, gate: Gate, timeouts: Timeouts) -> None:
        self._place = place
        self._waiter = waiter
        self._gate = gate
        self._timeouts = timeouts
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    async def begin(self, outgoing: Outgoing) -> tuple[Head, Connection]:
        """Send a request and return the head of its answer; `finish` is to follow.

        Raises:
            httpx.TransportError: No answer came.
        """
        if self._process != os.getpid():
            self._let_go_of_the_parents()
        if not await self._gate.enter(self._timeouts.get("pool")):
            raise httpx.PoolTimeout("all connections are in use")
        try:
            return await self._on_some_connection(outgoing)
        except BaseException:
            self._gate.leave()
            raise

    def finish(self, connection: Connection) -> None:
        """End an exchange, whether or not its answer was read to the end."""
        if connection.release():
            with self._lock:
                kept = not self._closed
                if kept:
                    self._idle.append(connection)
            if not kept:
                connection.close()
        self._gate.leave()

    def close(self) -> None:
        """Close all idle connections; those in use follow at their end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def _on_some_connection(self, outgoing: Outgoing) -> tuple[Head, Connection]:
        while True:
            connection = self._found_idle()
            if connection is None:
                wire = await Wire.connect(self._place, self._waiter, self._timeouts)
                connection = Connection(wire)
            try:
                return await connection.exchange(outgoing), connection
            except BaseException as error:
                connection.close()
                gone = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
                # Nothing of the request can have been processed if none of it was sent.
                if not (gone and connection.used and not outgoing.begun):
                    raise

    def _let_go_of_the_parents(self) -> None:
        """Close what a fork has copied: on one connection, each would read the other's answers."""
        self._lock = threading.Lock()  # a thread that is not here may have held the other
        self._process = os.getpid()
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _found_idle(self) -> Connection | None:
        """Return the connection that was used last and is still open, and close older ones."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if monotonic() - connection.idle_since < IDLE_SECONDS and connection.usable:
                return connection
            connection.close()
