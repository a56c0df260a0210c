"""HTTP/1.1 as text: the head of a request, the head of an answer. Nothing here reads or sends.

Strict where a lenient reader could take one answer's bytes for another's: line
ends, field names, lengths, and codings must be exactly what RFC 9112 says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

MAX_HEAD = 64 * 1024
"""The longest head of an answer, in bytes."""

MAX_CHUNK_LINE = 256
"""The longest line that announces a chunk, its extensions included."""

HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"

CHUNKED = -1
UNTIL_CLOSE = -2
"""Framings of a body whose length the head does not tell."""

_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5]\d\d)(?: ([^\x00\r\n]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    version: bytes
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    length: int
    """The bytes of the body, or `CHUNKED`, or `UNTIL_CLOSE`."""

    reusable: bool
    """Whether another request may follow on the same connection."""

    @property
    def interim(self) -> bool:
        """Whether another head follows this one."""
        return self.status < httpx.codes.OK


def request_head(request: httpx.Request) -> bytes:
    """Return the head of a request, its empty line included.

    Args:
        request: A request with all headers that it needs.

    Raises:
        httpx.LocalProtocolError: A header would end early, or the body has no length.
    """
    if "transfer-encoding" in request.headers:
        raise httpx.LocalProtocolError("a body is sent with its length only")
    fields = request.headers.raw
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [name + b": " + value for name, value in fields]
    head = LINE_END.join((*lines, b"", b""))
    ends = len(lines) + 1
    if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line end or a zero byte")
    return head


def answer_head(text: bytes, method: str) -> Head:
    """Return the head of an answer.

    Args:
        text: Its lines, without the empty one that ends them.
        method: The method of the request that is answered.

    Raises:
        httpx.RemoteProtocolError: It is no such head, or the body's end is in doubt.
    """
    first, *lines = text.split(LINE_END)
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise httpx.RemoteProtocolError(f"no status line: {first[:64]!r}")
    version, status, reason = found[1], int(found[2]), found[3] or b""
    headers = [_field(line) for line in lines]
    if status == httpx.codes.SWITCHING_PROTOCOLS:
        raise httpx.RemoteProtocolError("the server switched to a protocol nobody asked for")
    length = _length(status, version, method, headers)
    kept = b"close" not in _tokens(headers, b"connection") and length != UNTIL_CLOSE
    return Head(status, version, reason, headers, length, kept and version == b"1.1")


def chunk_size(line: bytes) -> int:
    """Return the size that a line announces.

    Args:
        line: The line before a chunk, without its end.

    Raises:
        httpx.RemoteProtocolError: It is no such line.
    """
    found = _CHUNK_LINE.fullmatch(line)
    if found is None:
        raise httpx.RemoteProtocolError(f"no size of a chunk: {line[:64]!r}")
    return int(found[1], 16)


def _field(line: bytes) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise httpx.RemoteProtocolError(f"no header: {line[:64]!r}")
    return found[1], found[2]


def _length(
    status: int, version: bytes, method: str, headers: Sequence[tuple[bytes, bytes]]
) -> int:
    """Return the body's length or framing (RFC 9112, section 6.3)."""
    codings = _tokens(headers, b"transfer-encoding")
    lengths = set(_tokens(headers, b"content-length"))
    if codings and (codings != [b"chunked"] or lengths or version != b"1.1"):
        raise httpx.RemoteProtocolError(
            "the body's transfer coding is unknown, or its end in doubt"
        )
    if len(lengths) > 1 or any(re.fullmatch(rb"\d{1,18}", length) is None for length in lengths):
        raise httpx.RemoteProtocolError("the body has several lengths, or one that is no number")
    if method == "HEAD" or status < httpx.codes.OK or status in {204, 304}:
        return 0
    if codings:
        return CHUNKED
    return int(lengths.pop()) if lengths else UNTIL_CLOSE


def _tokens(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the elements of a header that is a list, over all lines that bear its name."""
    values = [value for key, value in headers if key.lower() == name]
    return [token.strip().lower() for value in values for token in value.split(b",")]
