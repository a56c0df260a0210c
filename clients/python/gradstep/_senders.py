"""Sending calls through httpx, blocking and not, and reading their answers to the end."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterable, Iterable
from typing import TypeVar, cast

import httpx

from gradstep import _transports
from gradstep._core import Answer, Attempts, Body, Call, Inbox, Outcome, Request
from gradstep._reused import Reused
from gradstep._transports import DIRECT, AnswerBody, AsyncAnswerBody
from gradstep._wires import Place

T = TypeVar("T")

VARIABLE = "GRADSTEP_API_KEY"
"""The variable of the environment that holds the key of a client that is given none."""


class Sender:
    """Sends calls and waits for their answers, with retries."""

    def __init__(
        self,
        address: str | None,
        uds: str | os.PathLike[str] | None,
        api_key: str | None,
        timeout: float | httpx.Timeout,
        max_retries: int,
        transport: httpx.BaseTransport | None,
    ) -> None:
        url, place = destination(address, uds, transport)
        self._authorization = authorization(api_key)
        if place is not None:
            transport = _transports.Transport(place)
        self._takes_pieces = place is not None
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport)
        self._max_retries = max_retries
        self._reused = Reused()

    def send(self, call: Call[T]) -> T:
        """Return a call's result, or raise what `Attempts.conclude` raises."""
        attempts = Attempts(call.request, self._max_retries)
        while True:
            outcome = self._attempt(call.request)
            wait = attempts.wait_after(outcome)
            if wait is None:
                return attempts.conclude(call, outcome)
            time.sleep(wait)

    def _attempt(self, request: Request) -> Outcome:
        try:
            return self._exchange(request)
        except httpx.RequestError as error:
            return error

    def _exchange(self, request: Request) -> Answer:
        outgoing = httpx.Request(
            request.method,
            url_of(request, self._http.base_url),
            headers=request.all_headers() | self._authorization,
            content=self._content(request.body),
        )
        response = self._http.send(outgoing, stream=True)
        try:
            inbox = Inbox(response.status_code, response.headers, self._reused)
            body = response.extensions.get(DIRECT)
            if isinstance(body, AnswerBody) and inbox.fixed:
                while received := body.read_into(inbox.room):
                    inbox.filled(received)
            else:
                for chunk in response.iter_bytes():
                    inbox.write(chunk)
        finally:
            response.close()
        return inbox.answer()

    def _content(self, body: Body | None) -> bytes | Iterable[bytes] | None:
        if body is None:
            return None
        if self._takes_pieces:
            # httpx declares bytes and passes on what it is given.
            return cast("Iterable[bytes]", body.pieces)
        return body.if_small() or body.blocks()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class AsyncSender:
    """`Sender` for asyncio."""

    def __init__(
        self,
        address: str | None,
        uds: str | os.PathLike[str] | None,
        api_key: str | None,
        timeout: float | httpx.Timeout,
        max_retries: int,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        url, place = destination(address, uds, transport)
        self._authorization = authorization(api_key)
        if place is not None:
            transport = _transports.AsyncTransport(place)
        self._takes_pieces = place is not None
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout, transport=transport)
        self._max_retries = max_retries
        self._reused = Reused()

    async def send(self, call: Call[T]) -> T:
        """Return a call's result, or raise what `Attempts.conclude` raises."""
        attempts = Attempts(call.request, self._max_retries)
        while True:
            outcome = await self._attempt(call.request)
            wait = attempts.wait_after(outcome)
            if wait is None:
                return attempts.conclude(call, outcome)
            await asyncio.sleep(wait)

    async def _attempt(self, request: Request) -> Outcome:
        try:
            return await self._exchange(request)
        except httpx.RequestError as error:
            return error

    async def _exchange(self, request: Request) -> Answer:
        outgoing = httpx.Request(
            request.method,
            url_of(request, self._http.base_url),
            headers=request.all_headers() | self._authorization,
            content=self._content(request.body),
        )
        response = await self._http.send(outgoing, stream=True)
        try:
            inbox = Inbox(response.status_code, response.headers, self._reused)
            body = response.extensions.get(DIRECT)
            if isinstance(body, AsyncAnswerBody) and inbox.fixed:
                while received := await body.read_into(inbox.room):
                    inbox.filled(received)
            else:
                async for chunk in response.aiter_bytes():
                    inbox.write(chunk)
        finally:
            await response.aclose()
        return inbox.answer()

    def _content(self, body: Body | None) -> bytes | AsyncIterable[bytes] | None:
        if body is None:
            return None
        if self._takes_pieces:
            return cast("AsyncIterable[bytes]", body.pieces_async())  # as above
        return body.if_small() or body.blocks_async()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the header that carries a key, or none if there is none.

    Args:
        api_key: The key; by default the environment's.

    Raises:
        ValueError: It can be no key. It is not shown, for it may be one with a slip.
    """
    key = (os.environ.get(VARIABLE, "") if api_key is None else api_key).strip()
    if not key:
        return {}
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        where = VARIABLE if api_key is None else "api_key"
        msg = f"{where} is no key: it has blanks, or what is not ASCII"
        raise ValueError(msg)
    return {"Authorization": f"Bearer {key}"}


def url_of(request: Request, base: httpx.URL) -> httpx.URL:
    """Return the address of a request.

    Args:
        request: The request, whose path begins with a slash.
        base: The server's address, which ends with one.
    """
    url = base.copy_with(raw_path=base.raw_path[:-1] + request.path.encode("ascii"))
    return url.copy_merge_params(request.query) if request.query else url


def destination(
    address: str | None, uds: str | os.PathLike[str] | None, transport: object
) -> tuple[httpx.URL, Place | None]:
    """Return a server's URL, and where our own transport reaches it if it is to.

    Args:
        address: Such as ``http://127.0.0.1:8000``; a path before ``/v1`` is kept.
        uds: The path of a Unix socket, which needs no address.
        transport: What the caller wants to be used instead.

    Raises:
        ValueError: It is not the address of an HTTP server.
    """
    if uds is not None and transport is not None:
        raise ValueError("uds= and transport= exclude each other")
    if address is None and uds is None:
        raise ValueError("an address or uds= is needed")
    url = base_url("http://localhost" if address is None else address)
    if transport is not None:
        return url, None
    return url, _transports.place_of(url, None if uds is None else os.fspath(uds))


def base_url(address: str) -> httpx.URL:
    """Return a server's address.

    Args:
        address: Such as ``http://127.0.0.1:8000``; a path before ``/v1`` is kept.

    Raises:
        ValueError: It is not the address of an HTTP server.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        msg = f"{address!r} is no address: {error}"
        raise ValueError(msg) from error
    if url.scheme not in {"http", "https"} or not url.host:
        msg = f"{address!r} is no address: it must begin with http:// or https:// and a host"
        raise ValueError(msg)
    return url
