"""What becomes of a pipeline that fails, is cancelled, left early, or misused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sdk_pipelines import (
    PATIENCE,
    Handle,
    Watched,
    created,
    drain,
    gradients,
    positions,
    run,
    start,
)
from server_process import Server, server
from session_app import Arrays, same

import gradstep
from gradstep import AsyncClient, AsyncSession, Pipeline, Step

pytestmark = pytest.mark.usefixtures("direct")


def test_a_failure_is_told_of_its_session_and_leaves_no_other_in_doubt(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 6)
            bad = {"w": np.full(4, math.nan, np.float32)}
            steps = [
                (session, bad if i in {1, 2} else gradients(i, 4))
                for i, session in enumerate(sessions)
            ]
            stepped: list[AsyncSession] = []
            with pytest.raises(gradstep.StepsFailed) as caught:
                await drain(steps, stepped, limit=4)
            errors = caught.value.errors
            assert errors.keys() <= {sessions[1].id, sessions[2].id}
            for key, error in errors.items():
                assert isinstance(error, gradstep.NonFiniteGradient)
                assert error.__notes__ == [f"at step 1 of session {key}"]
                assert key in str(caught.value)
            assert caught.value.exceptions == tuple(errors.values())
            assert sessions[0] in stepped
            taken = [int(session in stepped) for session in sessions]
            assert await positions(sessions) == taken

    run(main())


def test_failures_of_one_kind_can_be_caught_alone() -> None:
    known, unknown = ValueError("a"), KeyError("b")
    caught, left = gradstep.StepsFailed({"one": known, "other": unknown}).split(ValueError)
    assert isinstance(caught, gradstep.StepsFailed)
    assert isinstance(left, gradstep.StepsFailed)
    assert (caught.errors, left.errors) == ({"one": known}, {"other": unknown})


def test_a_session_that_failed_does_not_take_the_next_gradients_for_its_own(
    service: Server,
) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            [session] = await created(client, 1)
            steps = [(session, {"v": np.zeros(1)}), (session, gradients(1, 4))]
            stepped: list[AsyncSession] = []
            with pytest.raises(gradstep.StepsFailed):
                await drain(steps, stepped)
            assert stepped == []
            assert await positions([session]) == [0]

    run(main())


def test_a_source_that_fails_is_told_after_what_was_begun(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 3)

            def source() -> Iterator[tuple[AsyncSession, Arrays]]:
                for session in sessions:
                    yield session, gradients(0, 4)
                raise OSError("no more data")

            stepped: list[AsyncSession] = []
            with pytest.raises(OSError, match="no more data"):
                await drain(source(), stepped)
            assert sorted(stepped, key=id) == sorted(sessions, key=id)
            assert await positions(sessions) == [1, 1, 1]

    run(main())


def test_a_pipeline_that_is_left_early_ends_what_it_began(service: Server) -> None:
    sent: list[str] = []

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        sent.append(request.url.path.split("/")[3])
        await asyncio.sleep(0.02 * len(sent))
        return await pass_on(request)

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, 8)
            steps = [(session, gradients(0, 4)) for session in sessions]

            async def leave() -> None:
                async with Pipeline(steps, limit=3) as pipeline:
                    async for _ in pipeline:
                        raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await leave()
            assert sent == [session.id for session in sessions[:3]]
            assert await positions(sessions) == [1, 1, 1, 0, 0, 0, 0, 0]

    run(main())


def test_what_fails_beside_the_block_is_noted_at_what_the_block_raises(service: Server) -> None:
    """Which goes on as it is, so that whoever expects it finds it."""

    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 3)
            bad = {"w": np.full(4, math.nan, np.float32)}

            def source() -> Iterator[tuple[AsyncSession, Arrays]]:
                yield sessions[0], gradients(0, 4)
                yield sessions[1], bad
                yield sessions[2], {"v": np.zeros(1)}
                raise OSError("no more data")

            async def leave() -> None:
                async with Pipeline(source(), limit=4) as pipeline:
                    async for session, _, _ in pipeline:
                        await asyncio.wait({*pipeline._running})
                        raise ZeroDivisionError(session.id)

            with pytest.raises(ZeroDivisionError) as caught:
                await leave()
            notes = caught.value.__notes__
            assert len(notes) == 3
            for session, error in zip(sessions[1:], ("NonFinite", "InvalidTensors"), strict=True):
                begin = f"failed too, at step 1 of session {session.id}: {error}"
                assert any(note.startswith(begin) for note in notes)
            assert notes[-1] == "failed too, in the source of the steps: OSError: no more data"

    run(main())


@pytest.mark.parametrize("end", ["left", "failed block", "failed step", "cancelled"])
def test_a_generator_left_at_a_yield_is_closed_where_the_block_ends(
    service: Server, end: str
) -> None:
    events: list[str] = []

    async def source(session: AsyncSession) -> AsyncIterator[Step]:
        try:
            for n in range(100):
                yield Step(session, gradients(n, 3 if end == "failed step" else 4))
        finally:
            await asyncio.sleep(0)
            events.append("closed")

    async def step(session: AsyncSession) -> None:
        async with Pipeline(source(session), limit=2) as pipeline:
            async for _ in pipeline:
                if end == "failed block":
                    raise ZeroDivisionError
                if end == "cancelled":
                    await asyncio.sleep(PATIENCE)
                break

    async def main() -> None:
        async with AsyncClient(service.url) as client:
            [session] = await created(client, 1)
            with suppress(ZeroDivisionError, gradstep.StepsFailed, TimeoutError):
                async with asyncio.timeout(0.2 if end == "cancelled" else PATIENCE):
                    await step(session)
            events.append("left")

    run(main())
    assert events == ["closed", "left"]


def test_two_objects_for_one_session_are_refused(service: Server) -> None:
    """The second would take its first step where the first object has taken one."""

    async def main() -> None:
        async with AsyncClient(service.url) as client, AsyncClient(service.url) as other:
            [session] = await created(client, 1)
            for again in (client, other):
                twin = await again.sessions.resume(session.id)
                stepped: list[AsyncSession] = []
                steps = [(session, gradients(1, 4)), (twin, gradients(1, 4))]
                with pytest.raises(ValueError, match=f"two objects stand for session {session.id}"):
                    await drain(steps, stepped)
                assert stepped == [session]
            assert await positions([session]) == [2]

    run(main())


def test_sessions_of_one_id_on_two_servers_are_two(service: Server, tmp_path: Path) -> None:
    async def main(address: str) -> None:
        async with AsyncClient(service.url) as client, AsyncClient(address) as other:
            sessions = [
                await each.sessions.create(optimizer="AdamW", params=start(4), id="one")
                for each in (client, other)
            ]
            stepped: list[AsyncSession] = []
            await drain([(session, gradients(1, 4)) for session in sessions * 2], stepped)
            assert await positions(sessions) == [2, 2]

    with server(tmp_path / "data", store="memory://") as second:
        run(main(second.url))


def test_a_failure_that_nobody_waited_for_is_told_where_the_block_ends(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            [session] = await created(client, 1)

            async def leave() -> None:
                async with Pipeline([(session, {"v": np.zeros(1)})]):
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

            with pytest.raises(gradstep.StepsFailed) as caught:
                await leave()
            assert caught.value.errors.keys() == {session.id}

    run(main())


def test_after_a_cancellation_the_same_steps_find_what_was_taken(service: Server) -> None:
    """The answers of half of the steps are lost: those are found, the others taken."""
    arrived: list[str] = []
    lost: list[str] = []
    enough, cancelled = asyncio.Event(), asyncio.Event()

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        if cancelled.is_set():
            return await pass_on(request)
        arrived.append(request.url.path)
        if len(arrived) <= 2:
            await pass_on(request)
            lost.append(request.url.path)
            if len(lost) == 2:
                enough.set()
        return await asyncio.Future()

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, 4)
            steps = [(session, gradients(i, 4)) for i, session in enumerate(sessions)]

            async def step() -> list[gradstep.Stepped]:
                async with Pipeline(steps, limit=4) as pipeline:
                    return [stepped async for stepped in pipeline]

            task = asyncio.create_task(step())
            await enough.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled.set()
            found = {stepped.session: stepped for stepped in await step()}
            assert sum(stepped.receipt.replayed for stepped in found.values()) == 2
            assert await positions(sessions) == [1, 1, 1, 1]
            for i, session in enumerate(sessions):
                [alone] = await created(client, 1)
                assert same(found[session].params, await alone.step(gradients(i, 4)))

    run(main())


def test_what_is_no_session_of_its_client_is_refused_before_anything_is_stepped(
    service: Server,
) -> None:
    with gradstep.Client(service.url) as client:
        session = client.sessions.create(optimizer="AdamW", params=start(4))
        for wrong in (session, session.id):
            steps: Any = [(wrong, gradients(1, 4))]
            with pytest.raises(TypeError, match=f"AsyncClient.*a {type(wrong).__name__}"):
                run(drain(steps, []))
        assert session.refresh().step == 0


def test_a_source_that_someone_else_cancelled_is_no_end() -> None:
    async def source() -> AsyncIterator[Step]:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
        yield Step(None, {})  # type: ignore[arg-type] # it does not come to this

    with pytest.raises(RuntimeError, match="was cancelled, not by its pipeline"):
        run(drain(source(), []))


def test_a_pipeline_is_used_in_its_block_and_once() -> None:
    async def main() -> None:
        pipeline = Pipeline([])
        with pytest.raises(RuntimeError, match="async with"):
            await anext(pipeline)
        async with pipeline:
            assert [stepped async for stepped in pipeline] == []
        with pytest.raises(RuntimeError, match="used once"):
            await pipeline.__aenter__()

    run(main())


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pipeline([], limit=0)


@pytest.mark.parametrize("limit", ["3", 1.5, None, np.float32(2)])
def test_a_limit_that_counts_nothing_is_refused(limit: Any) -> None:
    with pytest.raises(TypeError, match="the limit must be a whole number, got "):
        Pipeline([], limit=limit)
