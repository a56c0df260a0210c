"""What a timeout may be, and that there may be none; and how often a call is repeated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from server_process import Server

import gradstep
from gradstep import _wires

pytestmark = pytest.mark.usefixtures("direct")

CLIENTS = [gradstep.Client, gradstep.AsyncClient]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("timeout", [-1, -math.inf, math.nan, httpx.Timeout(5, read=-0.5)], ids=str)
def test_a_timeout_that_can_be_none_is_refused(client: Callable[..., object], timeout: Any) -> None:
    """A negative one would wait for ever."""
    with pytest.raises(ValueError, match=r"timeout must be 0 seconds or more, got .* for \w"):
        client("http://localhost", timeout=timeout)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_timeout_that_is_no_number_is_refused(client: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="timeout must be seconds, got '3' for connect"):
        client("http://localhost", timeout="3")


@pytest.mark.parametrize("available", [True, False], ids=["direct", "httpx"])
@pytest.mark.parametrize("timeout", [math.inf, 1e30, 3_000_000, None, httpx.Timeout(None)], ids=str)
def test_there_may_be_no_limit(
    service: Server, monkeypatch: pytest.MonkeyPatch, timeout: Any, *, available: bool
) -> None:
    monkeypatch.setattr(_wires, "AVAILABLE", available)

    async def later() -> list[gradstep.Kind]:
        async with gradstep.AsyncClient(service.url, timeout=timeout) as client:
            return await client.schedulers()

    with gradstep.Client(service.url, timeout=timeout) as client:
        assert client.schedulers()
    assert asyncio.run(later())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("count", [None, "2", 1.5, math.nan], ids=str)
def test_a_number_of_retries_that_is_no_whole_number_is_refused(
    client: Callable[..., object], count: Any
) -> None:
    """It would be found only when an answer is lost, and NaN never ends."""
    with pytest.raises(TypeError, match="max_retries must be a whole number, got"):
        client("http://localhost", max_retries=count)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_negative_number_of_retries_is_refused(client: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="max_retries must be 0 or more, got -1"):
        client("http://localhost", max_retries=-1)
