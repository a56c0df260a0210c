"""Bodies as callers give them: byte views, in as many pieces as they like."""

from __future__ import annotations

from collections.abc import Iterator

from gradstep_server.sessions.store import Body


def check_size(body: Body, size: int) -> None:
    """Refuse a body that is not of the size that its entry states."""
    check_count(sum(piece.nbytes for piece in body), size)


def check_count(given: int, size: int) -> None:
    """Refuse so many bytes where an entry or a snapshot states another size."""
    if given != size:
        raise ValueError(f"the body has {given} bytes, its record says {size}")


def in_chunks(body: Body, size: int) -> Iterator[memoryview | bytearray]:
    """Yield the bytes of `body` in chunks of `size`, the last one shorter."""
    chunks = Chunks(size)
    for piece in body:
        yield from chunks.cut(piece)
    if chunks.rest:
        yield chunks.rest


class Chunks:
    """Cuts a body into chunks of one size, while its pieces come.

    A chunk that lies within one piece is a view of it; only one that spans
    pieces is copied, so that at most one chunk is held.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.taken = 0
        """How many bytes have come."""

        self.rest = bytearray()
        """Those behind the last chunk that was cut."""

    def cut(self, piece: memoryview) -> Iterator[memoryview | bytearray]:
        """Yield the chunks that are complete with `piece`; keep a copy of what is left."""
        self.taken += piece.nbytes
        start = 0
        if self.rest:
            start = min(self._size - len(self.rest), piece.nbytes)
            self.rest += piece[:start]
            if len(self.rest) == self._size:
                full, self.rest = self.rest, bytearray()
                yield full
        while piece.nbytes - start >= self._size:
            yield piece[start : start + self._size]
            start += self._size
        self.rest += piece[start:]
