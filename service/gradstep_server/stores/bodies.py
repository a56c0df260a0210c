"""Bodies as callers give them: byte views, in as many pieces as they like."""

from __future__ import annotations

from collections.abc import Iterator

from gradstep_server.sessions.store import Body


def check_size(body: Body, size: int) -> None:
    """Refuse a body that is not of the size that its entry or snapshot states."""
    given = sum(piece.nbytes for piece in body)
    if given != size:
        raise ValueError(f"the body has {given} bytes, its record says {size}")


def in_chunks(body: Body, size: int) -> Iterator[memoryview | bytearray]:
    """Yield the bytes of `body` in chunks of `size`, the last one shorter.

    A chunk that lies within one piece is a view of it; only one that spans
    pieces is copied, so that at most one chunk is held.
    """
    gathered = bytearray()
    for piece in body:
        start = 0
        if gathered:
            start = min(size - len(gathered), piece.nbytes)
            gathered += piece[:start]
            if len(gathered) == size:
                yield gathered
                gathered = bytearray()
        while piece.nbytes - start >= size:
            yield piece[start : start + size]
            start += size
        gathered += piece[start:]
    if gathered:
        yield gathered
