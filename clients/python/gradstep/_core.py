"""Requests and answers as values: what is sent and read, without sending or waiting.

Both clients are loops around this module and `_retry`: they differ only in how
bytes reach the network. One `Call` is one operation of the API: the request and
the function that reads its answer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar
from urllib.parse import urlencode

import httpx
import numpy as np

from gradstep._errors import AnswerMalformed, ConnectionFailed
from gradstep._refusals import error_for
from gradstep._retry import Retries, retry_after
from gradstep._reused import Reused
from gradstep._types import Fault, Problem
from gradstep._version import __version__

T = TypeVar("T")
U = TypeVar("U")

JSON = "application/json"
SAFETENSORS = "application/vnd.safetensors"

BLOCK = 256 * 1024
"""The largest piece handed to httpx at once: its sockets slice what is left of a
piece after every send, so that larger ones cost quadratic time."""

SMALL = 64 * 1024
"""Bodies below this are sent as one piece."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: views of the caller's arrays, which are read anew at every attempt."""

    media_type: str
    pieces: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(len(piece) for piece in self.pieces)

    def if_small(self) -> bytes | None:
        """Return the bytes, or None if they are better sent in blocks."""
        return b"".join(self.pieces) if self.size < SMALL else None

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes in blocks of `BLOCK`, small pieces joined, large ones divided."""
        parts: list[memoryview] = []
        room = BLOCK
        for piece in self.pieces:
            rest = piece
            while len(rest) >= room:
                yield b"".join((*parts, rest[:room]))
                rest, parts, room = rest[room:], [], BLOCK
            parts.append(rest)
            room -= len(rest)
        yield b"".join(parts)

    async def blocks_async(self) -> AsyncIterator[bytes]:
        """Yield what `blocks` yields."""
        for block in self.blocks():
            yield block


@dataclass(frozen=True, slots=True)
class Request:
    """One request, complete but for the server's address."""

    method: str
    path: str
    accept: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    """Sent as ``X-Request-Id``, the same at every attempt."""

    names_result: bool = False
    """Whether the body holds the id of what a POST makes, so that it is found when it is made."""

    @property
    def repeatable(self) -> bool:
        """Whether a second arrival does no harm, since the server recognises it."""
        fenced = "If-Match" in self.headers
        return fenced or self.names_result or self.method in {"GET", "PUT", "DELETE"}

    @property
    def target(self) -> str:
        """The path and the query, as they are sent."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    def all_headers(self) -> dict[str, str]:
        """Return every header, those of the body included."""
        headers = {
            "Accept": self.accept,
            # The body goes into one buffer of Content-Length, as it was sent.
            "Accept-Encoding": "identity",
            "User-Agent": f"gradstep-python/{__version__}",
            "X-Request-Id": self.id,
            **self.headers,
        }
        if self.body is not None:
            headers |= {
                "Content-Type": self.body.media_type,
                "Content-Length": str(self.body.size),
            }
        return headers


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, received to its end."""

    status: int
    headers: Mapping[str, str]
    """By names in lower case."""

    body: memoryview


class Inbox:
    """Receives an answer's body into one buffer, which grows if its length is not known."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        length: int | None,
        reused: Reused,
    ) -> None:
        """Begin with an empty buffer.

        Args:
            status: The answer's status.
            headers: Its headers, by names in lower case.
            length: The bytes of its body; None if that is not known.
            reused: Where memory for it is lent.

        Raises:
            AnswerMalformed: There is no memory for so many bytes.
        """
        self._status = status
        self._headers = headers
        self._fixed = length is not None
        try:
            self._buffer = np.empty(BLOCK, np.uint8) if length is None else reused.take(length)
        except (MemoryError, OverflowError, ValueError) as error:
            msg = f"the answer announces {length} bytes, for which there is no memory"
            raise AnswerMalformed(msg) from error
        self._filled = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        end = self._filled + len(chunk)
        if end > len(self._buffer):
            if self._fixed:
                raise AnswerMalformed("the answer is longer than it announced")
            self._grow(end)
        self._buffer[self._filled : end] = np.frombuffer(chunk, np.uint8)
        self._filled = end

    @property
    def room(self) -> memoryview:
        """What is still to be filled: nothing at the end of an answer whose length is known."""
        if not self._fixed and self._filled == len(self._buffer):
            self._grow(self._filled)
        return self._buffer.data[self._filled :]

    def filled(self, received: int) -> None:
        """Count bytes that were written into `room`."""
        self._filled += received

    def _grow(self, size: int) -> None:
        self._buffer = np.concatenate((self._buffer, np.empty(size, np.uint8)))

    def answer(self) -> Answer:
        """Return what came, once nothing more comes."""
        if self._fixed and self._filled < len(self._buffer):
            raise AnswerMalformed("the answer is shorter than it announced")
        return Answer(self._status, self._headers, self._buffer.data[: self._filled])


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One operation: what to send, and how to read the answer if it is a success."""

    request: Request
    read: Callable[[Answer], T]

    def finish(self, answer: Answer) -> T:
        """Return the result, or raise what the answer says."""
        if not httpx.codes.is_success(answer.status):
            raise error_for(problem_of(answer, self.request))
        return self.read(answer)

    def then(self, use: Callable[[T], U]) -> Call[U]:
        """Return the same call, whose result goes through `use` as well."""
        return Call(self.request, lambda answer: use(self.read(answer)))


Outcome: TypeAlias = Answer | httpx.RequestError
"""How an attempt ended: with an answer, good or bad, or without one."""

TRANSIENT = (
    httpx.TimeoutException,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)
"""Failures that another attempt may not meet."""


class Attempts:
    """The attempts at one call: whether there is another, and what the last one means."""

    def __init__(self, request: Request, max_retries: int) -> None:
        self._retries = Retries(max_retries if request.repeatable else 0)

    def wait_after(self, outcome: Outcome) -> float | None:
        """Return the seconds to wait before the next attempt; None if this was the last."""
        if isinstance(outcome, Answer):
            asked = retry_after(outcome.headers.get("retry-after"))
            return self._retries.delay(outcome.status, asked)
        return self._retries.delay(None, None) if isinstance(outcome, TRANSIENT) else None

    def conclude(self, call: Call[T], outcome: Outcome) -> T:
        """Return the call's result.

        Raises:
            ConnectionFailed: No answer came.
            ApiError: The server refused; the class is that of the problem's code.
            AnswerMalformed: The answer cannot be read.
        """
        if isinstance(outcome, Answer):
            return call.finish(outcome)
        detail = (
            f"{call.request.method} {call.request.path}: {type(outcome).__name__} "
            f"at attempt {self._retries.taken + 1}: {outcome}"
        )
        raise ConnectionFailed(detail, call.request.id) from outcome


def json_body(value: object) -> Body:
    """Return a value as a JSON body.

    Args:
        value: What to send.

    Raises:
        TypeError: Something in it is not JSON.
        ValueError: A number is not finite.
    """
    return Body(JSON, (memoryview(json.dumps(value, allow_nan=False).encode()),))


def problem_of(answer: Answer, request: Request) -> Problem:
    """Return what a refusal says, whether or not it comes from a gradstep server.

    Args:
        answer: An answer that is no success.
        request: What it answers.
    """
    try:
        document = json.loads(bytes(answer.body))
    except ValueError:
        document = None
    said = dict(document) if isinstance(document, dict) else {}
    faults = said.pop("errors", None)
    return Problem(
        status=answer.status,
        detail=str(said.pop("detail", None) or _unexplained(answer, request)),
        code=_text(said.pop("code", None)),
        pointer=_text(said.pop("pointer", None)),
        errors=tuple(
            Fault(str(fault.get("pointer", "")), str(fault.get("detail", "")))
            for fault in (faults if isinstance(faults, list) else ())
            if isinstance(fault, dict)
        ),
        request_id=_text(said.pop("request_id", None)) or request.id,
        retry_after=retry_after(answer.headers.get("retry-after")),
        extra={key: value for key, value in said.items() if key not in {"type", "title", "status"}},
    )


def _unexplained(answer: Answer, request: Request) -> str:
    """Return what to say of a refusal that says nothing itself."""
    asked = f"{request.method} {request.path}"
    if not httpx.codes.is_redirect(answer.status):
        return f"{asked} failed"
    to = answer.headers.get("location") or "another address, which it does not name"
    return f"{asked} is referred to {to}: give the client the address where gradstep-server answers"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
