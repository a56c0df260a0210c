"""Sending calls through httpx, blocking and not. The only module that meets the network."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import httpx

from gradstep._core import Answer, Attempts, Call, Inbox, Outcome, Request

T = TypeVar("T")


class Sender:
    """Sends calls and waits for their answers, with retries."""

    def __init__(self, http: httpx.Client, max_retries: int) -> None:
        self._http = http
        self._max_retries = max_retries

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
        body = request.body
        outgoing = self._http.build_request(
            request.method,
            request.path,
            params=request.query,
            headers=request.all_headers(),
            content=None if body is None else body.if_small() or body.blocks(),
        )
        response = self._http.send(outgoing, stream=True)
        try:
            inbox = Inbox(response.status_code, response.headers)
            for chunk in response.iter_bytes():
                inbox.write(chunk)
        finally:
            response.close()
        return inbox.answer()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()


class AsyncSender:
    """`Sender` for asyncio."""

    def __init__(self, http: httpx.AsyncClient, max_retries: int) -> None:
        self._http = http
        self._max_retries = max_retries

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
        body = request.body
        outgoing = self._http.build_request(
            request.method,
            request.path,
            params=request.query,
            headers=request.all_headers(),
            content=None if body is None else body.if_small() or body.blocks_async(),
        )
        response = await self._http.send(outgoing, stream=True)
        try:
            inbox = Inbox(response.status_code, response.headers)
            async for chunk in response.aiter_bytes():
                inbox.write(chunk)
        finally:
            await response.aclose()
        return inbox.answer()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


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
