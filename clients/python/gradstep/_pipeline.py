"""Stepping many sessions at once: a stream of gradients in, a stream of parameters out.

A TaskGroup would cancel all steps when one fails, and nobody could say which of
them were taken. Here whatever has begun is answered first, and then the failure
is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, SupportsFloat, SupportsIndex, TypeAlias, cast

from gradstep._async_session import AsyncSession
from gradstep._types import Dtype, Params, Receipt, TensorLike


class Step(NamedTuple):
    """A step to take: a session, and the arguments of its `step`."""

    session: AsyncSession
    grads: Mapping[str, TensorLike]
    loss: SupportsFloat | None = None
    lr: float | Sequence[float] | None = None
    dtype: Dtype | None = None


class Stepped(NamedTuple):
    """A step taken: the session, its parameters after it, and the step's receipt."""

    session: AsyncSession
    params: Params
    receipt: Receipt


Steps: TypeAlias = Iterable[Step | tuple[AsyncSession, Mapping[str, TensorLike]]]
AsyncSteps: TypeAlias = AsyncIterable[Step | tuple[AsyncSession, Mapping[str, TensorLike]]]


class StepsFailed(ExceptionGroup[Exception]):
    """Raised when sessions of a pipeline could not step: one error for each of them.

    Every session not among them has taken all of its steps that the pipeline
    began, and `AsyncSession.position` says how many those are.
    """

    errors: Mapping[str, Exception]
    """The errors by the id of the session."""

    def __new__(cls, errors: Mapping[str, Exception]) -> Self:
        failed = super().__new__(cls, f"could not step {', '.join(errors)}", [*errors.values()])
        failed.errors = dict(errors)
        return failed

    def derive(self, excs: Sequence[Any], /) -> ExceptionGroup[Any]:
        """Return the group of some of the errors, as ``except*`` asks for."""
        some = {key: error for key, error in self.errors.items() if any(error is e for e in excs)}
        return StepsFailed(some)


class Pipeline:
    """Steps many sessions at once.

    ::

        async with gradstep.Pipeline(gradients()) as pipeline:
            async for session, params, receipt in pipeline:
                ...

    While the gradients of some sessions travel, those of others are computed,
    encoded or answered. The gradients are taken from their source one after
    another, and only while there is room, so that it may compute them as late as
    it can. Where a session's next gradients follow from its last parameters, yield
    them only once the loop has those, or let the limit be 1. The steps of a
    session are taken in the order of the source, those of different sessions in
    any; the results come as the answers do. They are the results that the
    sessions would have given one by one.

    Once a step has failed, or the source has, or the block is left, no other step
    begins, and those under way are answered. The failure is raised after the
    last result, or where the block ends. If the task is cancelled, so are the
    steps under way: each may or may not have been taken, and taking it again
    with the same gradients finds it or takes it, as always. An asynchronous
    generator is closed before the block is left, wherever it stands.

    What the block itself raises goes on as it is, and not in a group as from a
    TaskGroup: an ``except`` around the block finds it whether or not a step has
    failed too. What failed beside it stands in its notes, one for each session.

    It is a block around a loop, for the steps under way need an end that waits
    for them; and it is fed instead of called, for so it can wait with the next
    gradients until there is room for them.
    """

    def __init__(self, steps: Steps | AsyncSteps, *, limit: int = 8) -> None:
        """Prepare a pipeline; nothing is taken from `steps` yet.

        Args:
            steps: The steps to take: a `Step`, or a session and its gradients.
            limit: How many steps there may be at once, from the computation of
                their gradients until the loop, done with their results, asks for
                the next. With 1, the source may rely on all that the loop has done.

        Raises:
            TypeError: The limit is no whole number.
            ValueError: It is less than 1.
        """
        if not isinstance(limit, SupportsIndex):
            raise TypeError(f"the limit must be a whole number, got {limit!r}")
        if limit < 1:
            raise ValueError(f"the limit must be at least 1, got {limit}")
        self._source = steps
        self._room = asyncio.Semaphore(limit)
        self._results: asyncio.Queue[Stepped | None] = asyncio.Queue()
        self._held = 0
        self._entered = False
        self._running: dict[asyncio.Task[None], AsyncSession | None] = {}
        self._last: dict[AsyncSession, asyncio.Task[None]] = {}
        self._known: dict[tuple[str, datetime], AsyncSession] = {}
        self._errors: dict[str, Exception] = {}
        self._source_error: Exception | None = None
        self._ending = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a Pipeline is used once; make another for more steps")
        self._entered = True
        self._feeding = self._run(self._feed(), None)
        return self

    def __aiter__(self) -> AsyncIterator[Stepped]:
        return self

    async def __anext__(self) -> Stepped:
        if not self._entered:
            raise RuntimeError("a Pipeline steps within its block: async with Pipeline(…) as p")
        if self._held:  # the loop is done with a result: what follows from it is known
            self._held -= 1
            self._room.release()
        stepped = await self._results.get()
        if stepped is not None:
            self._held += 1
            return stepped
        self._results.put_nowait(None)
        self._raise_errors()
        raise StopAsyncIteration

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        try:
            if exc is None or isinstance(exc, Exception):
                await self._ended()
        finally:
            for task in self._running:
                task.cancel()
            await self._ended()
            if exc is not None:
                self._add_notes(exc)
        if exc is None:
            self._raise_errors()

    async def _feed(self) -> None:
        async with aclosing(_each(self._source)) as steps:
            while not self._ending:
                await self._room.acquire()
                step = await anext(steps, None)
                if step is None:
                    return
                self._check(step.session)
                before = self._last.get(step.session)
                self._last[step.session] = self._run(self._take(step, before), step.session)
                # A source that never waits would keep what has begun from being sent.
                await asyncio.sleep(0)

    def _check(self, session: object) -> None:
        if not isinstance(session, AsyncSession):
            kind = type(session).__name__
            raise TypeError(f"a Pipeline steps sessions of an AsyncClient, and this is a {kind}")
        # Servers may have a session of one id each, but hardly since the same microsecond.
        known = self._known.setdefault((session.id, session.info.created_at), session)
        if known is not session:
            # Neither would know of the other's steps, and take its own in their place.
            raise ValueError(
                f"two objects stand for session {session.id}: take all of its steps by one of them"
            )

    async def _take(self, step: Step, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        if self._ending:
            return
        session = step.session
        params = await session.step(step.grads, loss=step.loss, lr=step.lr, dtype=step.dtype)
        receipt = cast("Receipt", session.last_receipt)  # which is that of this step
        self._results.put_nowait(Stepped(session, params, receipt))

    def _run(
        self, coroutine: Coroutine[Any, Any, None], session: AsyncSession | None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._running[task] = session
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        session = self._running.pop(task)
        error: BaseException | None
        if not task.cancelled():
            error = task.exception()
        elif task is self._feeding and not self._ending:
            error = RuntimeError("the source of the steps was cancelled, not by its pipeline")
        else:
            error = None
        if session is not None and self._last.get(session) is task:
            del self._last[session]
        if isinstance(error, Exception):
            self._note_error(session, error)
        if not self._running:
            self._results.put_nowait(None)

    def _note_error(self, session: AsyncSession | None, error: Exception) -> None:
        if session is None:
            self._source_error = error
        else:
            error.add_note(f"at step {session.position + 1} of session {session.id}")
            self._errors[session.id] = error
        self._end()

    def _end(self) -> None:
        """Let no other step begin."""
        self._ending = True
        self._feeding.cancel()

    async def _ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running)

    def _raise_errors(self) -> None:
        """Raise what went wrong, once."""
        errors, self._errors = self._errors, {}
        source_error, self._source_error = self._source_error, None
        if errors:
            raise StepsFailed(errors) from source_error
        if source_error is not None:
            raise source_error

    def _add_notes(self, exc: BaseException) -> None:
        """Say beside what the block raised what went wrong too."""
        failed = {error.__notes__[-1]: error for error in self._errors.values()}
        if self._source_error is not None:
            failed["in the source of the steps"] = self._source_error
        for where, error in failed.items():
            exc.add_note(f"failed too, {where}: {type(error).__name__}: {error}")


async def _each(steps: Steps | AsyncSteps) -> AsyncGenerator[Step, None]:
    if not isinstance(steps, AsyncIterable):
        for step in steps:
            yield Step(*step)
        return
    source = aiter(steps)
    try:
        async for step in source:
            yield Step(*step)
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
