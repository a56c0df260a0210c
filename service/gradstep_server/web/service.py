"""What operators ask: is it alive, is it ready, which version is it, what has it done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, RedirectResponse
from pydantic import BaseModel, Field

from gradstep_server import __version__
from gradstep_server.sessions.errors import StorageFull, StoreUnavailable
from gradstep_server.web.errors import Draining
from gradstep_server.web.problems import responses

Readiness = Callable[[], Awaitable[None]]
"""Returns if sessions can be read and written, and raises a `GradstepError` if not."""

Metrics = Callable[[], Awaitable[bytes]]
"""Returns what Prometheus is to read."""


class MetricsPage(PlainTextResponse):
    """The text that Prometheus reads."""

    media_type = "text/plain; version=0.0.4"


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(examples=["ok"])


class Ready(BaseModel):
    """Sessions can be read and written."""

    status: Literal["ready"] = Field(examples=["ready"])


class Version(BaseModel):
    """The version of the service."""

    version: str = Field(examples=[__version__])


def router(ready: Readiness, metrics: Metrics) -> APIRouter:
    """Return the routes for operators.

    Args:
        ready: asked by every ``/readyz``.
        metrics: asked by every ``/metrics``.
    """
    routes = APIRouter(tags=["service"])

    @routes.get(
        "/livez",
        operation_id="getLiveness",
        summary="Say that the process answers, whatever the store does.",
    )
    async def livez() -> Alive:
        return Alive(status="ok")

    @routes.get(
        "/readyz",
        operation_id="getReadiness",
        summary="Say whether the store can be read and written, and the service is to stay.",
        responses=responses(StoreUnavailable, StorageFull, Draining),
    )
    async def readyz() -> Ready:
        await ready()
        return Ready(status="ready")

    @routes.get(
        "/metrics",
        operation_id="getMetrics",
        summary="Count and measure what was served, for Prometheus.",
        response_class=MetricsPage,
        responses={
            200: {"content": {MetricsPage.media_type: {"example": "gradstep_hot_sessions 3.0\n"}}}
        },
    )
    async def get_metrics() -> MetricsPage:
        return MetricsPage(await metrics())

    @routes.get("/version", operation_id="getVersion", summary="Name the version of the service.")
    async def version() -> Version:
        return Version(version=__version__)

    @routes.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    return routes
