"""One connection and the exchanges on it, one after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from time import monotonic

import httpx

from gradstep import _http1
from gradstep._http1 import CHUNKED, HEAD_END, LINE_END, MAX_CHUNK_LINE, MAX_HEAD, UNTIL_CLOSE, Head
from gradstep._wires import Wire

BATCH = 64
"""So many pieces at most are handed to a socket at once."""

MAX_INTERIM = 32
"""The most heads (1xx) before that of the answer."""


class Outgoing:
    """A request on its way: head and body as pieces, sent together where they are small."""

    def __init__(self, method: str, head: bytes, body: Iterable[memoryview]) -> None:
        self.method = method
        self.begun = False
        """Whether any byte may have reached the server."""

        self._pieces = deque([memoryview(head), *filter(None, body)])

    @property
    def done(self) -> bool:
        """Whether all is sent."""
        return not self._pieces

    async def send(self, wire: Wire) -> bool:
        """Send on until all is sent; return False if the server has something to say before."""
        while self._pieces:
            sent = await wire.send([*islice(self._pieces, BATCH)])
            if not sent:
                return False
            self.begun = True
            while sent and sent >= len(self._pieces[0]):
                sent -= len(self._pieces.popleft())
            if sent:
                self._pieces[0] = self._pieces[0][sent:]
        return True


class Connection:
    """A wire, and the bytes that came on it and are not read yet."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = bytearray(MAX_HEAD)
        self._begin = 0
        self._end = 0
        self._method = ""
        self._interim = 0
        self._answered = False
        self._framing = 0
        self._left = 0
        self._within_chunks = False
        self._reusable = False
        self.used = False
        """Whether an answer came on it before."""

        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether the connection, found idle, can carry another request."""
        return self._wire.quiet()

    async def exchange(self, outgoing: Outgoing) -> Head:
        """Send a request and return the head of its answer.

        Raises:
            httpx.TransportError: No answer comes, or none that can be read.
        """
        self._method = outgoing.method
        self._interim = 0
        self._answered = False
        head: Head | None = None
        broken: httpx.WriteError | None = None
        try:
            while head is None and not await outgoing.send(self._wire):
                head = await self._early_head()
        except httpx.WriteError as error:
            # A server that refuses a body may close before it has read it; what it said is there.
            broken = error
        try:
            while head is None:
                head = await self._next_head()
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            if broken is None:
                raise
            raise broken from None
        self._answered = True
        self._framing = head.length
        self._left = max(head.length, 0)
        self._within_chunks = False
        self._reusable = head.reusable and outgoing.done
        return head

    async def read_into(self, room: memoryview) -> int:
        """Read some of the answer's body; return how many bytes, 0 at its end.

        Raises:
            httpx.TransportError: The rest does not come, or not as it should.
        """
        if not self._left and self._framing == CHUNKED:
            await self._next_chunk()
        if self._framing != UNTIL_CLOSE:
            room = room[: self._left]
        if not room:
            return 0
        received = self._take(room) or await self._wire.receive(room)
        if self._framing == UNTIL_CLOSE:
            return received
        if not received:
            raise httpx.RemoteProtocolError("the server closed the connection within its answer")
        self._left -= received
        return received

    def release(self) -> bool:
        """End the exchange; return whether another may follow, and close if not."""
        reusable = self._reusable and not self._left and self._framing != CHUNKED
        if not reusable or self._begin < self._end:
            self.close()
            return False
        self.used = True
        self.idle_since = monotonic()
        return True

    def close(self) -> None:
        """Close the wire."""
        self._wire.close()

    async def _early_head(self) -> Head | None:
        """Return the head of an answer that comes before the whole request is sent, if one does."""
        received = self._wire.receive_now(self._room())
        if received is None:
            return None
        self._came(received)
        head = None
        while head is None and self._begin < self._end:
            head = await self._next_head()
        return head

    async def _next_head(self) -> Head | None:
        """Return the next head, None if it is one before the answer's."""
        text = await self._until(
            HEAD_END, MAX_HEAD, f"the answer's head is longer than {MAX_HEAD} bytes"
        )
        head = _http1.answer_head(text, self._method)
        if not head.interim:
            return head
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise httpx.RemoteProtocolError("the server announces its answer without end")
        return None

    async def _next_chunk(self) -> None:
        if self._within_chunks:
            await self._until(LINE_END, len(LINE_END), "a chunk is longer than it announced")
        self._within_chunks = True
        endless = "a chunk's size, or what follows the last chunk, has no end"
        self._left = _http1.chunk_size(await self._until(LINE_END, MAX_CHUNK_LINE, endless))
        if self._left:
            return
        room = MAX_HEAD
        while trailer := await self._until(LINE_END, room, endless):
            room -= len(trailer)
        self._framing = 0

    async def _until(self, mark: bytes, limit: int, otherwise: str) -> bytes:
        """Take the bytes before a mark, and the mark.

        Args:
            mark: What ends them.
            limit: How many bytes there may be, the mark included.
            otherwise: What it means if there are more.
        """
        begin = self._begin
        while (found := self._buffer.find(mark, begin, self._end)) < 0:
            if self._end - self._begin >= limit:
                break
            begin = max(self._begin, self._end - len(mark) + 1)
            moved = self._begin
            room = self._room()
            begin -= moved - self._begin
            self._came(await self._wire.receive(room))
        if found < 0 or found + len(mark) - self._begin > limit:
            raise httpx.RemoteProtocolError(otherwise)
        text = bytes(self._buffer[self._begin : found])
        self._begin = found + len(mark)
        return text

    def _room(self) -> memoryview:
        """Return the free part of the buffer, after what is unread was moved to its beginning."""
        unread = self._end - self._begin
        if self._begin:
            self._buffer[:unread] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, unread
        return memoryview(self._buffer)[unread:]

    def _came(self, received: int) -> None:
        if not received:
            begun = self._answered or self._begin < self._end
            when = "within its answer" if begun else "before it answered"
            raise httpx.RemoteProtocolError(f"the server closed the connection {when}")
        self._end += received

    def _take(self, room: memoryview) -> int:
        """Move unread bytes into `room`; return how many."""
        taken = min(len(room), self._end - self._begin)
        room[:taken] = memoryview(self._buffer)[self._begin : self._begin + taken]
        self._begin += taken
        return taken
