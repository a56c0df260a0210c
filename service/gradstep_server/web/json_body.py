"""JSON bodies are read here and nowhere else: strictly, and within a limit.

`StrictJsonRoute` does it for every route whose body is a pydantic model. Routes
that read tensors too call `require_json_type`, `read` and `parse` themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import JsonValue
from starlette.datastructures import Headers

from gradstep_server.web.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType


def parse(body: bytes | bytearray | memoryview) -> JsonValue:
    """Decode JSON: UTF-8, no NaN, at most 1,024 levels deep.

    Raises:
        MalformedBody: naming the byte at which reading stopped.
    """
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        at, reason = _locate(bytes(body), error)
        raise MalformedBody(f"not JSON at byte {at} of {len(body)}: {reason}") from None
    return value


def _locate(body: bytes, error: orjson.JSONDecodeError) -> tuple[int, str]:
    """Return the byte that is wrong and why; orjson itself counts in characters."""
    try:
        text = body.decode()
    except UnicodeDecodeError as undecodable:
        return undecodable.start, "not UTF-8"
    return len(text[: error.pos].encode()), error.msg


def refuse_encoding(headers: Headers) -> None:
    """Refuse a body that is compressed, whatever it holds.

    Raises:
        UnsupportedMediaType: Content-Encoding is set to anything but ``identity``.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding[:32]!r} is not supported; send the body as it is"
        )


def media_type(headers: Headers) -> str:
    """Return the Content-Type without its parameters, lowercase; empty where there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(media: str) -> bool:
    """Tell whether a media type is JSON, ``application/problem+json`` and its like included."""
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json")
    )


def require_json_type(headers: Headers) -> None:
    """Refuse any body that does not say that it is plain JSON.

    Raises:
        UnsupportedMediaType: Content-Type is missing or names something else.
    """
    refuse_encoding(headers)
    media = media_type(headers)
    if not is_json(media):
        said = f"Content-Type is {media[:64]!r}" if media else "Content-Type is missing"
        raise UnsupportedMediaType(f"{said}; send Content-Type: application/json")


async def read(request: Request, limit: int) -> bytes:
    """Read a whole body of at most `limit` bytes.

    Raises:
        BodyTooLarge: the announced or the received length exceeds the limit.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(f"the body has {announced} bytes; at most {limit} are accepted here")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body has more than the {limit} bytes accepted here")
        chunks.append(chunk)
    return b"".join(chunks)


class _ParsedRequest(Request):
    """A request whose body was read and parsed before FastAPI asks for it."""

    async def load(self, limit: int) -> None:
        body = await read(self, limit)
        # These are the places in which Starlette's own body() and json() keep their answers.
        self._body = body
        if body:
            require_json_type(self.headers)
            self._json = parse(body)


class StrictJsonRoute(APIRoute):
    """A route whose JSON body is parsed by `parse`, so that every failure is a problem.

    FastAPI reads a body of another type as text, accepts NaN, and turns what
    it cannot parse into a bare 400; this route answers 415 or 400 with a reason.
    """

    json_limit: ClassVar[int] = 64 * 2**20
    """The largest body in bytes. JSON takes some 20 times its size in memory."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls for each request."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_parsed(request: Request) -> Response:
            parsed = _ParsedRequest(request.scope, request.receive)
            await parsed.load(self.json_limit)
            return await handle(parsed)

        return handle_parsed
