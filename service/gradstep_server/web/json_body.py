"""JSON bodies are read here and nowhere else: strictly, and within a limit."""

from __future__ import annotations

from typing import NamedTuple

import orjson
from fastapi import Request
from pydantic import JsonValue
from starlette.datastructures import Headers

from gradstep_server.errors import Fault, InvalidRequest
from gradstep_server.web.body_limit import announced_length, rooms, take_room
from gradstep_server.web.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType
from gradstep_server.web.unique_names import are_unique, find_repeated

LIMIT = 64 * 2**20
"""The largest body in bytes."""

IN_MEMORY = 20
"""How many times its size JSON takes in memory, as Python's objects."""


MAX_NAMES = 16_384
"""How many colons a body may hold, and so how many names: each costs as much as a row of
numbers, and ten times that where it is wrong."""

MAX_OBJECTS = MAX_NAMES
"""How many braces it may open: each costs as much as a name, also where it has none."""

MAX_LISTS = 131_072
"""How many brackets a body may open."""

MAX_QUOTES = 4 * MAX_NAMES
"""How many quotes a body may hold of which each text has to be looked at, for names that are
there twice."""

_PART = 2**20

_TOO_SMALL = "failed to allocate memory"
"""What orjson says where the room that it gives a text's values, by its length, is too small.
JSON itself always has enough; what opens hundreds of lists and closes none may not."""

_MORE = " " * 2048
"""A text that is so much longer has room for as many lists as may be open."""

_TOO_DEEP = "depth limit exceeded"


class _Counted(NamedTuple):
    sign: bytes
    limit: int
    what: str


_NAMES = _Counted(b":", MAX_NAMES, "names")
_OBJECTS = _Counted(b"{", MAX_OBJECTS, "objects")
_COUNTED = (_NAMES, _OBJECTS, _Counted(b"[", MAX_LISTS, "lists"))
_QUOTES = _Counted(b'"', MAX_QUOTES, "quotes")


def parse(body: bytes | bytearray | memoryview) -> JsonValue:
    """Decode JSON: UTF-8, no NaN, at most 1,024 levels deep, of few names, objects and lists.

    No object has a name twice.

    Raises:
        MalformedBody: naming the byte at which reading stopped, or the name.
        InvalidRequest: there are too many names, objects or lists; none of them was read.
    """
    text = bytes(body) if isinstance(body, memoryview) else body
    found = _refuse_many(text)
    try:
        value: JsonValue = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        at, reason = _locate(bytes(text), error)
        raise MalformedBody(f"not JSON at byte {at} of {len(body)}: {reason}") from None
    if not are_unique(text, value, found[_NAMES], found[_OBJECTS]):
        _refuse_many(text, (_QUOTES,))
        if repeated := find_repeated(text):
            at, name = repeated
            raise MalformedBody(
                f"the name {name[:100]!r} at byte {at} of {len(body)} stands in its object "
                "for the second time; every name must be unique there"
            )
    return value


def _refuse_many(
    text: bytes | bytearray, signs: tuple[_Counted, ...] = _COUNTED
) -> dict[_Counted, int]:
    """Count signs; refuse JSON of too many at the first part that shows it."""
    found = dict.fromkeys(signs, 0)
    for start in range(0, len(text), _PART):
        for counted in signs:
            found[counted] += text.count(counted.sign, start, start + _PART)
            if found[counted] > counted.limit:
                detail = (
                    f"holds more than the {counted.limit} {counted.what} of JSON that are accepted"
                )
                raise InvalidRequest(Fault("", detail))
    return found


def _locate(body: bytes, error: orjson.JSONDecodeError) -> tuple[int, str]:
    """Return the byte that is wrong and why; orjson itself counts in characters."""
    try:
        text = body.decode()
    except UnicodeDecodeError as undecodable:
        return undecodable.start, "not UTF-8"
    at, reason = why_not(text, error)
    return len(text[:at].encode()), reason


def why_not(text: str, error: orjson.JSONDecodeError) -> tuple[int, str]:
    """Return the character at which a text stops being JSON, and why; orjson's error says less."""
    if error.msg == _TOO_SMALL:
        try:
            orjson.loads(text + _MORE)
        except orjson.JSONDecodeError as exact:
            error = exact
    reason = "more than 1,024 levels deep" if error.msg == _TOO_DEEP else error.msg
    return min(error.pos, len(text)), reason


def refuse_encoding(headers: Headers) -> None:
    """Refuse a body that is compressed, whatever it holds.

    Raises:
        UnsupportedMediaType: Content-Encoding is set to anything but ``identity``.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaType(
            f"the Content-Encoding {encoding[:32]!r} is not supported; send the body as it is"
        )


def media_type(headers: Headers) -> str:
    """Return the Content-Type without its parameters, lowercase; empty where there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Tell whether a media type is JSON, ``application/problem+json`` and its like included."""
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def unsupported(headers: Headers, *accepted: str) -> UnsupportedMediaType:
    """Return the refusal of a body by its Content-Type, which names what to send instead."""
    media = media_type(headers)
    said = f"the Content-Type is {media[:64]!r}" if media else "the Content-Type is missing"
    return UnsupportedMediaType(f"{said}; send {' or '.join(accepted)}")


def require_json_type(headers: Headers) -> None:
    """Refuse any body that does not say that it is plain JSON.

    Raises:
        UnsupportedMediaType: Content-Type is missing or names something else.
    """
    refuse_encoding(headers)
    if not is_json(media_type(headers)):
        raise unsupported(headers, "application/json")


async def read(request: Request, limit: int) -> bytes:
    """Read a whole body of at most `limit` bytes, and no more than there is ever room for.

    Raises:
        BodyTooLarge: the announced or the received length exceeds the limit.
        Busy: there is no room for it at present.
    """
    room = rooms(request).bodies
    limit = min(limit, room.limit // IN_MEMORY)
    announced = announced_length(request.headers)
    if announced is not None and announced > limit:
        raise BodyTooLarge(
            f"the body has {announced} bytes; at most {limit} bytes of JSON are accepted"
        )
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        await take_room(request, IN_MEMORY * len(chunk), room)
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body has more than the {limit} bytes of JSON accepted")
        chunks.append(chunk)
    return b"".join(chunks)
