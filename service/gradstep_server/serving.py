"""Listening: the socket, the check of the store, the banner, and uvicorn."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import typer
import uvicorn
from pydantic import ByteSize
from uvicorn.supervisors import Multiprocess

from gradstep_server import __version__, admission, logs
from gradstep_server.app import create_app, make_store
from gradstep_server.deadline import END_WITHIN, Deadline
from gradstep_server.ending import CannotRun
from gradstep_server.metrics import workers
from gradstep_server.opening import opened
from gradstep_server.sessions.store import Store
from gradstep_server.settings import Settings
from gradstep_server.unix_socket import unix_socket
from gradstep_server.web.body_protocol import BodyProtocol
from gradstep_server.web.slow_clients import Patience, Timekeeper

GRACE = 7
"""Seconds that requests in flight have to end when the service is told to stop: with
what follows, the process is gone within 10."""

_BACKLOG = 2048
_OTHER_FILES = 1024
"""What a process may have open beside its connections: the store's files, above all."""


def run(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        CannotRun: the address or the store cannot be used.
    """
    admission.require_keys(settings)
    _check_certificate(settings)
    require_extras(settings)
    store = _checked_store(settings)
    keys = admission.prepare(settings)
    if settings.uds is None:
        listening = listen(settings.host, settings.port)
        _serve(settings, listening, banner(settings, store, listening.getsockname()[1], keys))
        return
    with unix_socket(settings.uds, _BACKLOG) as listening:
        _serve(settings, listening, banner(settings, store, None, keys))


def require_extras(settings: Settings) -> None:
    """Refuse to serve without what the settings need.

    Raises:
        CannotRun: a package is not installed.
    """
    if settings.otel and importlib.util.find_spec("opentelemetry.sdk") is None:
        raise CannotRun("--otel needs more: pip install 'gradstep-server[otel]'", exit_code=2)


def _serve(settings: Settings, listening: socket.socket, said: str) -> None:
    with suppress(OSError):  # who reads it may be on a full disk, which keeps no one from serving
        typer.echo(said)
    _allow_files(settings.max_connections + _OTHER_FILES)
    if settings.workers > 1:
        with workers.shared():
            _supervise(_uvicorn("gradstep_server.app:create", settings), listening, settings)
        return
    server = uvicorn.Server(_uvicorn(create_app(settings), settings))
    try:
        server.run([listening])
    except KeyboardInterrupt:  # uvicorn raises it again once everything is closed
        return
    if not server.started:
        raise CannotRun("the service did not start; the lines above say why")


def _supervise(config: uvicorn.Config, listening: socket.socket, settings: Settings) -> None:
    """Run workers, and see to it that none outlives its time."""
    supervisor = Multiprocess(config, [listening])
    deadline, seconds = Deadline(), settings.drain_seconds + END_WITHIN
    with deadline.upon(signal.SIGTERM, seconds), deadline.upon(signal.SIGINT, seconds):
        supervisor.run()


def _allow_files(wanted: int) -> None:
    """Let this process, and its workers, open so many files, or as many as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen(host: str, port: int) -> socket.socket:
    """Bind the address now, so that port 0 has become a number before anyone is told of it.

    Raises:
        CannotRun: the address is wrong or taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason, _, _ = (error.strerror or str(error)).partition(" (while attempting")
        raise CannotRun(f"cannot listen on {host}:{port}: {reason}") from error
    listening.set_inheritable(True)
    return listening


def banner(settings: Settings, store: Store, port: int | None, keys: str) -> str:
    """Say where the service is and what may be expected of it.

    Args:
        settings: how it runs.
        store: where it keeps sessions.
        port: the port it listens on; None on a Unix socket.
        keys: which keys there are.
    """
    if port is None:
        places = {"address": f"unix:{settings.uds}"}
    else:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{'http' if settings.ssl_certfile is None else 'https'}://{host}:{port}"
        places = {"address": address, "docs": f"{address}/docs"}
    limits = (
        f"{_size(ByteSize(settings.largest_body))} a body, {settings.max_tensors} tensors, "
        f"{_size(settings.memory_budget)} of sessions in memory"
    )
    lines = {
        **places,
        "store": store.url,
        "durability": store.durability,
        "keys": keys,
        "limits": limits,
        "workers": str(settings.workers),
    }
    body = "\n".join(f"  {name:<11}{value}" for name, value in lines.items())
    return f"gradstep-server {__version__}\n{body}"


def _size(size: ByteSize) -> str:
    return size.human_readable(separator=" ")


def _check_certificate(settings: Settings) -> None:
    """Refuse a certificate that cannot be used, before anything is opened.

    Raises:
        CannotRun: it, or its key, cannot be read, or they do not belong together.
    """
    if settings.ssl_certfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With an empty password, OpenSSL asks nobody for one.
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise CannotRun(f"--ssl-certfile, --ssl-keyfile: {reason}", exit_code=2) from error


def _checked_store(settings: Settings) -> Store:
    """Open the store once and close it: what is wrong with it is said here, in one sentence.

    It is opened alone, so that what crashed writers left is swept while no one writes.
    """

    async def open_and_close() -> None:
        async with opened(settings):
            pass

    asyncio.run(open_and_close())
    return make_store(settings)


class _Config(uvicorn.Config):
    """uvicorn's, which alone would give a TLS handshake a minute."""

    handshake = 60.0
    """Seconds that it may take."""

    def get_loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """Return what makes an event loop whose servers know that limit."""
        make = super().get_loop_factory()
        if make is None or self.ssl_certfile is None:
            return make

        def made() -> asyncio.AbstractEventLoop:
            loop = make()
            limited = partial(loop.create_server, ssl_handshake_timeout=self.handshake)
            loop.create_server = limited  # type: ignore[method-assign] # uvicorn has no parameter for it
            return loop

        return made


def _uvicorn(target: Any, settings: Settings) -> uvicorn.Config:  # noqa: ANN401 - an app, or the name of its factory
    patience = Patience(
        head=settings.header_timeout,
        rate=settings.min_rate,
        connections=settings.max_connections,
    )
    config = _Config(
        target,
        factory=isinstance(target, str),
        workers=settings.workers,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        loop="auto",
        http=partial(BodyProtocol, timekeeper=Timekeeper(patience)),  # type: ignore[arg-type] # uvicorn only calls it
        ws="none",
        lifespan="on",
        log_config=logs.configuration(settings.log_level, settings.log_format),
        log_level=settings.log_level,
        access_log=False,  # the service has lines of its own, which say more
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=GRACE,
    )
    config.handshake = settings.header_timeout
    return config
