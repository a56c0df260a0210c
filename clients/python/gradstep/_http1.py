"""HTTP/1.1 as text: the head of a request, the head of an answer. Nothing here reads or sends.

Strict where a lenient reader could take one answer's bytes for another's: line
ends, field names, lengths, and codings must be exactly what RFC 9112 says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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

_STATUS_LINE = re.compile(r"HTTP/(1\.[01]) ([1-5][0-9][0-9])(?: [^\x00\r\n]*)?")
_FIELD = re.compile(r"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)(?=\r\n|\Z)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00\r\n]*)?")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case; the values of lines of one name are joined by commas."""

    length: int
    """The bytes of the body, or `CHUNKED`, or `UNTIL_CLOSE`."""

    reusable: bool
    """Whether another request may follow on the same connection."""

    @property
    def interim(self) -> bool:
        """Whether another head follows this one."""
        return self.status < httpx.codes.OK


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request, its empty line included.

    Args:
        method: Such as ``PUT``.
        target: The path and the query.
        headers: All headers that it needs.

    Raises:
        httpx.LocalProtocolError: A header would end early.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    head = "\r\n".join((*lines, "", ""))
    ends = len(lines) + 1
    if head.count("\r") != ends or head.count("\n") != ends or "\0" in head:
        raise httpx.LocalProtocolError("a header holds a line end or a zero byte")
    return head.encode("ascii")


def answer_head(text: bytes, method: str) -> Head:
    """Return the head of an answer.

    Args:
        text: Its lines, without the empty one that ends them.
        method: The method of the request that is answered.

    Raises:
        httpx.RemoteProtocolError: It is no such head, or the body's end is in doubt.
    """
    first, line_end, fields = text.decode("latin-1").partition("\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise httpx.RemoteProtocolError(f"no status line: {first[:64]!r}")
    version, status = found[1], int(found[2])
    if status == httpx.codes.SWITCHING_PROTOCOLS:
        raise httpx.RemoteProtocolError("the server switched to a protocol nobody asked for")
    headers = _headers(line_end + fields)
    length = _length(status, version, method, headers)
    kept = "close" not in _tokens(headers, "connection") and length != UNTIL_CLOSE
    return Head(status, headers, length, kept and version == "1.1")


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


def _headers(lines: str) -> dict[str, str]:
    """Return the headers of lines, each with a line end before it."""
    found = _FIELD.findall(lines)
    if len(found) != lines.count("\r\n"):
        raise httpx.RemoteProtocolError("a line of the answer's head is no header")
    headers: dict[str, str] = {}
    for field, text in found:
        name, value = field.lower(), text.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(status: int, version: str, method: str, headers: Mapping[str, str]) -> int:
    """Return the body's length or framing (RFC 9112, section 6.3)."""
    codings = _tokens(headers, "transfer-encoding")
    lengths = set(_tokens(headers, "content-length"))
    if codings and (codings != ["chunked"] or lengths or version != "1.1"):
        raise httpx.RemoteProtocolError(
            "the body's transfer coding is unknown, or its end in doubt"
        )
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise httpx.RemoteProtocolError("the body has several lengths, or one that is no number")
    if method == "HEAD" or status < httpx.codes.OK or status in {204, 304}:
        return 0
    if codings:
        return CHUNKED
    return int(lengths.pop()) if lengths else UNTIL_CLOSE


def _tokens(headers: Mapping[str, str], name: str) -> list[str]:
    """Return the elements of a header that is a list, in lower case."""
    value = headers.get(name)
    return [] if value is None else [token.strip(" \t").lower() for token in value.split(",")]
