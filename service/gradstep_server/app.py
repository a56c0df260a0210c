"""The composition root: the one place that sees every layer."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from gradstep_server import __version__, metrics
from gradstep_server.admission import keyring
from gradstep_server.draining import Draining
from gradstep_server.heaps import give_back, hold_less
from gradstep_server.logs import RequestLines
from gradstep_server.optimizers import Compute, warm_up
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.buffers import Buffers
from gradstep_server.sessions.observer import Observer
from gradstep_server.sessions.quotas import Quota
from gradstep_server.sessions.room import Rooms
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.store import Store
from gradstep_server.settings import Settings
from gradstep_server.stores.urls import open_store
from gradstep_server.web import (
    backprop,
    branches,
    catalogue,
    cors,
    curves,
    docs,
    history,
    openapi,
    params,
    problems,
    service,
    sessions,
    steps,
)
from gradstep_server.web.access import Services
from gradstep_server.web.authentication import Authentication
from gradstep_server.web.body_limit import BodyLimit
from gradstep_server.web.errors import Draining as IsDraining
from gradstep_server.web.head import HeadAnswers
from gradstep_server.web.kept_answers import KeptAnswers
from gradstep_server.web.probes import PROBES
from gradstep_server.web.rate_limit import RateLimit
from gradstep_server.web.request_id import RequestId
from gradstep_server.web.secure_headers import SecureHeaders
from gradstep_server.web.served import Watched, Watcher

_log = logging.getLogger(__name__)

_TAGS = ("schedules", "catalogue", "backprop", "sessions", "steps", "params", "service")
"""The parts of the API, in the order in which its documentation shows them."""

_FRESHNESS = 5.0
"""Seconds after which a worker's gauges are set anew."""

_EXPIRY_INTERVAL = 60.0
"""Seconds between two searches for idle sessions."""


def create() -> FastAPI:
    """Return the application that the environment describes, for uvicorn's workers."""
    return create_app(Settings())


def make_store(settings: Settings) -> Store:
    """Return the store that the settings select, not opened yet.

    Raises:
        ValueError: the URL selects no store.
    """
    return open_store(settings.store, shared=settings.workers > 1)


def create_app(settings: Settings) -> FastAPI:
    """Return the application, its store opened when it starts and closed when it ends."""
    families = metrics.Families()
    store = metrics.ObservedStore(make_store(settings), families)
    compute = Compute(settings.threads or os.cpu_count() or 1)
    rooms = Rooms.halves(settings.request_memory)
    buffers = Buffers(settings.buffer_memory, rooms.answers)
    kept = _sessions(settings, store, compute, buffers, metrics.SessionMetrics(families))
    page = metrics.Page(families, kept.memory, rooms)
    draining = Draining(settings.drain_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            hold_less()
            closing.enter_context(draining.on_sigterm())
            closing.callback(compute.close)
            await store.open()
            closing.push_async_callback(store.close)
            closing.push_async_callback(kept.close)
            await asyncio.to_thread(warm_up, compute)
            for work in (
                _expire(kept, settings.session_ttl),
                page.keep_fresh(_FRESHNESS),
                give_back(),
            ):
                closing.push_async_callback(_end, asyncio.create_task(work))
            draining.may_wait = True
            yield

    app = FastAPI(
        title="gradstep",
        summary="Learning-rate schedules and optimizer steps as a service.",
        version=__version__,
        lifespan=lifespan,
        openapi_tags=[{"name": tag} for tag in _TAGS],
        docs_url=None,
        redoc_url=None,
        telemetry=_telemetry(settings),
    )
    limits = Limits(header=settings.max_header_size, tensors=settings.max_tensors)
    app.state.services = Services(kept, limits, settings.max_points, buffers)
    for router in (
        steps.router,  # first, since addresses are compared in this order
        curves.router(settings.max_points),
        catalogue.router,
        backprop.router,
        sessions.router,
        params.router,
        branches.router,
        history.router,
        service.router(_readiness(store, draining), page.read),
        docs.router,
    ):
        # Included, a router would be searched again once the route is found in it.
        app.router.routes.extend(router.routes)
    problems.install(app)
    openapi.install(app)
    _put_around(app, settings, rooms, families)
    return app


def _put_around(app: FastAPI, settings: Settings, rooms: Rooms, families: metrics.Families) -> None:
    """Add what every request goes through, the innermost first."""
    app.add_middleware(KeptAnswers)
    app.add_middleware(HeadAnswers)
    app.add_middleware(BodyLimit, limit=settings.largest_body, rooms=rooms)
    if settings.rates:
        app.add_middleware(RateLimit, limits=settings.rates)
    app.add_middleware(
        Authentication, keyring=keyring(settings), public_curves=settings.public_curves
    )
    app.add_middleware(cors.StatelessCors, origins=settings.cors_origins)
    app.add_middleware(SecureHeaders)
    watchers: list[Watcher] = [metrics.RequestMetrics(families)]
    if settings.access_log:
        watchers.append(RequestLines())
    app.add_middleware(Watched, watchers=watchers)
    app.add_middleware(RequestId)


def _telemetry(settings: Settings) -> TelemetryConfig:
    return {
        "auto_configure": settings.otel,
        "tracing": settings.otel,
        "metrics": False,
        "logs": False,
        "exclude": lambda scope: scope["path"] in PROBES,
    }


def _sessions(
    settings: Settings, store: Store, compute: Compute, buffers: Buffers, observer: Observer
) -> Sessions:
    policy = SnapshotPolicy(
        log_factor=settings.snapshot_factor,
        steps=settings.snapshot_steps,
        seconds=settings.snapshot_seconds,
    )
    quota = Quota(
        sessions=settings.max_sessions,
        tenant_size=settings.max_tenant_size,
        store_size=settings.max_store_size,
    )
    budget = settings.memory_budget
    return Sessions(store, compute, budget, policy, quota, buffers=buffers, observer=observer)


def _readiness(store: Store, draining: Draining) -> service.Readiness:
    async def ready() -> None:
        if draining.has_begun:
            raise IsDraining("the service was told to end; use another replica")
        await store.check()

    return ready


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _expire(kept: Sessions, ttl: float | None) -> None:
    """Delete idle sessions from time to time, if they are to be deleted at all."""
    while ttl is not None:
        try:
            if expired := await kept.expire(ttl):
                _log.info("%d sessions were idle for %g s and are deleted", expired, ttl)
                continue
        except Exception:  # noqa: BLE001 - the next search may succeed, whatever this one met
            _log.exception("idle sessions could not be deleted")
        await asyncio.sleep(min(_EXPIRY_INTERVAL, ttl))
