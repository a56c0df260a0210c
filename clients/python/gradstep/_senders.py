"""Sending calls, blocking and not, until they are answered for good; and where they go."""

from __future__ import annotations

import asyncio
import os
import re
import time
from base64 import b64encode
from numbers import Real
from operator import index
from typing import SupportsIndex, TypeVar

import httpx

from gradstep import _transports
from gradstep._core import Attempts, Call, Outcome, Request
from gradstep._errors import ClientClosed
from gradstep._transports import (
    AsyncDirectTransport,
    AsyncHttpxTransport,
    DirectTransport,
    HttpxTransport,
    Server,
)
from gradstep._wires import Place

T = TypeVar("T")

CLOSED = "the client is closed; make another one, and go on with its sessions.resume(id)"

LONGEST = 1_000_000.0
"""The longest timeout in seconds, 11 days; the system calls that wait take no more than 24."""

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
        server = server_at(url, api_key, timeout)
        self._transport = (
            HttpxTransport(server, transport) if place is None else DirectTransport(server, place)
        )
        self._max_retries = retries(max_retries)
        self._closed = False

    def send(self, call: Call[T]) -> T:
        """Return a call's result, or raise what `Attempts.conclude` raises.

        Raises:
            ClientClosed: `close` was called before.
        """
        attempts = Attempts(call.request, self._max_retries)
        while True:
            outcome = self._attempt(call.request)
            wait = attempts.wait_after(outcome)
            if wait is None:
                return attempts.conclude(call, outcome)
            time.sleep(wait)

    def _attempt(self, request: Request) -> Outcome:
        if self._closed:
            raise ClientClosed(CLOSED)
        try:
            return self._transport.exchange(request)
        except httpx.RequestError as error:
            return error

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._transport.close()


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
        server = server_at(url, api_key, timeout)
        self._transport = (
            AsyncHttpxTransport(server, transport)
            if place is None
            else AsyncDirectTransport(server, place)
        )
        self._max_retries = retries(max_retries)
        self._closed = False

    async def send(self, call: Call[T]) -> T:
        """Return a call's result, or raise what `Sender.send` raises."""
        attempts = Attempts(call.request, self._max_retries)
        while True:
            outcome = await self._attempt(call.request)
            wait = attempts.wait_after(outcome)
            if wait is None:
                return attempts.conclude(call, outcome)
            await asyncio.sleep(wait)

    async def _attempt(self, request: Request) -> Outcome:
        if self._closed:
            raise ClientClosed(CLOSED)
        try:
            return await self._transport.exchange(request)
        except httpx.RequestError as error:
            return error

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        await self._transport.close()


def server_at(url: httpx.URL, api_key: str | None, timeout: float | httpx.Timeout) -> Server:
    """Return a server to talk to.

    Args:
        url: Its address; a name and a password in it are for a proxy before the server.
        api_key: As for `authorization`.
        timeout: As for `phases`.

    Raises:
        TypeError: A timeout is no number.
        ValueError: A timeout can be none; or the key, or the address has a name and a password too.
    """
    headers = authorization(api_key)
    if url.userinfo:
        if headers:
            msg = (
                "there is a key, and a name and a password in the address: a request carries one "
                f'of them; for the address alone, say api_key="", whatever {VARIABLE} says'
            )
            raise ValueError(msg)
        basic = b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")
        headers = {"Authorization": f"Basic {basic}"}
    return Server(url, headers, phases(timeout))


def phases(timeout: float | httpx.Timeout | None) -> httpx.Timeout:
    """Return the seconds that each phase may take, None where there is no limit.

    Args:
        timeout: The seconds for all of them, or for each. More than `LONGEST`, and
            so infinity, are no limit.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, or NaN.
    """
    given = httpx.Timeout(timeout).as_dict()
    for phase, seconds in given.items():
        if seconds is not None and not isinstance(seconds, Real):
            raise TypeError(f"the timeout must be seconds, got {seconds!r} for {phase}")
        if seconds is not None and not seconds >= 0:
            raise ValueError(f"the timeout must be 0 seconds or more, got {seconds} for {phase}")
    return httpx.Timeout(
        **{phase: s if s is None or s <= LONGEST else None for phase, s in given.items()}
    )


def retries(count: int) -> int:
    """Return how often a call may be repeated.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative.
    """
    if not isinstance(count, SupportsIndex):
        raise TypeError(f"max_retries must be a whole number, got {count!r}")
    if index(count) < 0:
        raise ValueError(f"max_retries must be 0 or more, got {count}")
    return index(count)


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
    if mark := re.search("[?#]", address):
        # What follows is not shown, for it may be a key.
        msg = f"the address has a query or a fragment: it must end before its {mark[0]!r}"
        raise ValueError(msg)
    return url
