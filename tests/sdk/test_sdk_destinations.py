"""Where the clients go: to an address, to a Unix socket, or through a proxy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from scripted_server import ScriptedServer, answers, received

import gradstep
from gradstep import _wires
from gradstep._transports import place_of
from gradstep._wires import Place

EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)


def ask(**destination: str | Path) -> None:
    """Ask a server that has no catalogue for it, by both clients."""

    async def later() -> None:
        async with gradstep.AsyncClient(timeout=5, max_retries=0, **destination) as client:  # type: ignore[arg-type] # each is what its name says
            with pytest.raises(gradstep.AnswerMalformed):
                await client.schedulers()

    with (
        gradstep.Client(timeout=5, max_retries=0, **destination) as client,  # type: ignore[arg-type] # likewise
        pytest.raises(gradstep.AnswerMalformed),
    ):
        client.schedulers()
    asyncio.run(later())


@pytest.mark.parametrize("kind", [str, Path])
def test_a_unix_socket_is_enough(tmp_path: Path, kind: Callable[[Path], str | Path]) -> None:
    path = tmp_path / "socket"
    with ScriptedServer(answers(EMPTY), answers(EMPTY), path=path) as server:
        assert server is not None
        ask(uds=kind(path))


def test_a_proxy_that_the_environment_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(answers(EMPTY), answers(EMPTY)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        ask(address="http://nowhere.invalid")


@pytest.mark.parametrize(
    ("variable", "address", "ours"),
    [
        ("HTTP_PROXY", "http://host", False),
        ("HTTPS_PROXY", "http://host", True),
        ("HTTPS_PROXY", "https://host", False),
        ("ALL_PROXY", "http://host", False),
        ("HTTP_PROXY", "http://excepted:81", True),
        ("HTTP_PROXY", "http://also.excepted", True),
        ("HTTP_PROXY", "http://[::1]:8000", False),
    ],
)
def test_a_proxy_is_left_to_httpx_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, variable: str, address: str, *, ours: bool
) -> None:
    monkeypatch.setenv(variable, "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "excepted")
    assert (place_of(httpx.URL(address), None) is not None) == ours
    assert place_of(httpx.URL(address), "/socket") is not None


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("http://host", "host", 80),
        ("https://host", "host", 443),
        ("http://[::1]:81", "::1", 81),
        ("http://bücher.example", "xn--bcher-kva.example", 80),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    place = place_of(httpx.URL(address), None)
    assert isinstance(place, Place)
    assert (place.host, place.port, place.uds) == (host, port, None)
    assert (place.tls is not None) == address.startswith("https")


def test_httpx_serves_where_the_system_lacks_what_we_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wires, "AVAILABLE", False)
    assert place_of(httpx.URL("http://host"), None) is None
    with ScriptedServer(answers(EMPTY), answers(EMPTY)) as server:
        ask(address=f"http://127.0.0.1:{server.port}")
    with pytest.raises(ValueError, match="needs a system with Unix sockets"):
        gradstep.Client(uds="/socket")


@pytest.mark.parametrize("available", [True, False], ids=["direct", "httpx"])
def test_all_of_an_address_is_used(monkeypatch: pytest.MonkeyPatch, *, available: bool) -> None:
    """The path stands before that of every request; the name and the password are sent along."""
    monkeypatch.setattr(_wires, "AVAILABLE", available)
    heads: list[str] = []

    def run(connection: socket.socket) -> None:
        heads.append(received(connection)[0])
        connection.sendall(EMPTY)

    with ScriptedServer(run, run) as server:
        host = f"127.0.0.1:{server.port}"
        ask(address=f"http://me:p%40ss@{host}/behind")
    for head in heads:
        first, *lines = head.split("\r\n")
        assert first == "GET /behind/v1/schedulers HTTP/1.1"
        assert f"Host: {host}" in lines
        assert "Authorization: Basic bWU6cEBzcw==" in lines


@pytest.mark.parametrize("available", [True, False], ids=["direct", "httpx"])
def test_a_closed_client_sends_nothing(monkeypatch: pytest.MonkeyPatch, *, available: bool) -> None:
    monkeypatch.setattr(_wires, "AVAILABLE", available)

    async def later() -> None:
        async with gradstep.AsyncClient("http://127.0.0.1:1") as client:
            pass
        with pytest.raises(gradstep.ClientClosed, match="closed; make another one"):
            await client.schedulers()

    with gradstep.Client("http://127.0.0.1:1") as client:
        pass
    with pytest.raises(gradstep.ClientClosed, match="closed; make another one") as caught:
        client.schedulers()
    assert isinstance(caught.value, RuntimeError)
    asyncio.run(later())


@pytest.mark.parametrize("client", [gradstep.Client, gradstep.AsyncClient])
def test_a_client_without_a_destination_or_with_two_is_refused(
    client: Callable[..., object],
) -> None:
    with pytest.raises(ValueError, match="an address or uds= is needed"):
        client()
    with pytest.raises(ValueError, match="a key, and a name and a password"):
        client("http://me:secret@localhost", api_key="gs_key")
    with pytest.raises(ValueError, match="exclude each other"):
        client(uds="/socket", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
