"""The client for asyncio: `_client`, awaited. Arguments and results are documented there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import httpx

from gradstep import _calls
from gradstep._async_session import AsyncSession
from gradstep._senders import AsyncSender
from gradstep._types import Curve, Dtype, Kind, Retain, SessionSummary, Spec, TensorLike


class AsyncClient:
    """A connection to a gradstep server: `Client` for asyncio.

    ``async with gradstep.AsyncClient("http://127.0.0.1:8000") as client: …``
    closes it at the end. Every method is that of `Client` with the same
    arguments, awaited; ``sessions.list()`` is an asynchronous iterator. Tasks
    may share a client, but not a session; so may event loops, one after another
    or each in a thread.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        uds: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        timeout: float | httpx.Timeout = 60.0,
        max_retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent yet."""
        self._sender = AsyncSender(address, uds, api_key, timeout, max_retries, transport)
        self.schedules = AsyncSchedules(self._sender)
        """Learning-rate curves, which need no session."""
        self.sessions = AsyncSessions(self._sender)
        """Optimizer sessions."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; one that carries a call closes when that has ended."""
        await self._sender.close()

    async def schedulers(self) -> list[Kind]:
        """Return the catalogue of schedulers."""
        return await self._sender.send(_calls.schedulers())

    async def optimizers(self) -> list[Kind]:
        """Return the catalogue of optimizers."""
        return await self._sender.send(_calls.optimizers())


class AsyncSchedules:
    """Learning-rate curves."""

    def __init__(self, sender: AsyncSender) -> None:
        self._sender = sender

    async def curve(
        self,
        scheduler: Spec,
        *,
        base_lr: float | Sequence[float],
        steps: int,
        start: int = 0,
        stride: int = 1,
        max_points: int | None = None,
        last_epoch: int = -1,
        metrics: Iterable[float] | None = None,
        steps_per_epoch: int | None = None,
        gradient_accumulation: int = 1,
        num_processes: int = 1,
        batch_size: int | None = None,
        schedule_on: Literal["step", "epoch"] = "step",
        unit: Literal["step", "epoch", "sample"] = "step",
    ) -> Curve:
        """Return the rates of a schedule, by itself or as a training loop steps it."""
        return await self._sender.send(
            _calls.curve(
                scheduler,
                base_lr=base_lr,
                steps=steps,
                start=start,
                stride=stride,
                max_points=max_points,
                last_epoch=last_epoch,
                metrics=metrics,
                steps_per_epoch=steps_per_epoch,
                gradient_accumulation=gradient_accumulation,
                num_processes=num_processes,
                batch_size=batch_size,
                schedule_on=schedule_on,
                unit=unit,
            )
        )


class AsyncSessions:
    """Optimizer sessions."""

    def __init__(self, sender: AsyncSender) -> None:
        self._sender = sender

    async def create(
        self,
        *,
        optimizer: Spec,
        params: Mapping[str, TensorLike] | None = None,
        scheduler: Spec | None = None,
        weight_decay_scheduler: Spec | None = None,
        schedule_on: Literal["step", "epoch"] | None = None,
        param_groups: Sequence[Mapping[str, object]] | None = None,
        freeze: Sequence[str] | None = None,
        accumulate: Mapping[str, object] | None = None,
        clip: Mapping[str, object] | None = None,
        on_nonfinite: Literal["reject", "skip"] | None = None,
        durability: Literal["step", "relaxed"] | None = None,
        retain: Retain | None = None,
        id: str | None = None,  # noqa: A002 - the name that it has on the wire
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> AsyncSession:
        """Create a session. What is left out is the server's to choose."""
        call = _calls.create_session(
            id,
            params=params,
            optimizer=optimizer,
            scheduler=scheduler,
            dtype=dtype,
            weight_decay_scheduler=weight_decay_scheduler,
            schedule_on=schedule_on,
            param_groups=param_groups,
            freeze=freeze,
            accumulate=accumulate,
            clip=clip,
            on_nonfinite=on_nonfinite,
            durability=durability,
            retain=retain,
            name=name,
        )
        session = AsyncSession(self._sender, await self._sender.send(call))
        if params is not None:
            await session.set_params(params)
        return session

    async def resume(self, id: str) -> AsyncSession:  # noqa: A002 - the name that it has on the wire
        """Return a session where it stands."""
        return AsyncSession(self._sender, await self._sender.send(_calls.get_session(id)))

    async def list(self, *, page_size: int = 100) -> AsyncIterator[SessionSummary]:
        """Yield all sessions, ordered by id."""
        after: str | None = ""
        while after is not None:
            page = await self._sender.send(_calls.list_sessions(after=after, limit=page_size))
            for session in page.sessions:
                yield session
            after = page.next
