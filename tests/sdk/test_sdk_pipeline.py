"""Many sessions stepped at once, against a real service."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from server_process import Server, server
from session_app import Arrays, same

import gradstep
from gradstep import AsyncClient, AsyncSession, Pipeline, Step

T = TypeVar("T")

PATIENCE = 20.0
OPTIMIZERS: list[Any] = [
    {"type": "AdamW", "lr": 0.01},
    {"type": "SGD", "lr": 0.1, "momentum": 0.9},
    {"type": "RMSprop", "lr": 0.01},
]

Results = tuple[dict[tuple[int, int], Arrays], list[Arrays]]
"""The parameters by session and step, and the states in the end."""

Handle = Callable[[httpx.Request], Awaitable[httpx.Response]]


class Watched(httpx.AsyncBaseTransport):
    """The way to the service, with someone who looks at every step on it."""

    def __init__(self, watch: Callable[[httpx.Request, Handle], Awaitable[httpx.Response]]) -> None:
        self._watch = watch
        self._way = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/steps/" not in request.url.path:
            return await self._way.handle_async_request(request)
        return await self._watch(request, self._way.handle_async_request)

    async def aclose(self) -> None:
        await self._way.aclose()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("pipeline") / "data", store="memory://") as running:
        yield running


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy stands between this machine and itself."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def whole() -> T:
        async with asyncio.timeout(PATIENCE) as patience:
            result = await main
        assert not patience.expired()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "something goes on"
        return result

    return asyncio.run(whole())


def start(size: int) -> Arrays:
    return {"w": np.linspace(-1, 1, size, dtype=np.float32), "b": np.zeros(2, np.float32)}


def gradients(seed: int, size: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "w": random.normal(size=size).astype(np.float32),
        "b": random.normal(size=2).astype(np.float32),
    }


async def created(client: AsyncClient, count: int, size: int = 4) -> list[AsyncSession]:
    return [
        await client.sessions.create(optimizer="AdamW", params=start(size)) for _ in range(count)
    ]


async def positions(sessions: list[AsyncSession]) -> list[int]:
    """Return where the server says that sessions stand, and check that they know it."""
    found = []
    for session in sessions:
        known = session.position
        found.append((await session.refresh()).step)
        assert known == found[-1]
    return found


async def drain(steps: Any, into: list[AsyncSession], limit: int = 8) -> None:
    """Step, and note whose results come."""
    async with Pipeline(steps, limit=limit) as pipeline:
        async for session, _, _ in pipeline:
            into.append(session)


async def later(steps: Iterator[Step]) -> AsyncIterator[Step]:
    for step in steps:
        await asyncio.sleep(0)
        yield step


@pytest.mark.parametrize("limit", [1, 3, 64])
@pytest.mark.parametrize("awaited", [False, True], ids=["iterator", "asynchronous"])
def test_the_results_are_those_of_stepping_one_after_another(
    service: Server, limit: int, *, awaited: bool
) -> None:
    """Sessions of many sizes, in an order drawn at random, some of them often in a row."""
    sizes = [1, 3, 17, 1000, 40_000, 5, 300_000]
    order = [int(i) for i in np.random.default_rng(limit).integers(0, len(sizes), 60)]

    def alone() -> Results:
        with gradstep.Client(service.url) as client:
            sessions = [
                client.sessions.create(optimizer=OPTIMIZERS[i % 3], params=start(size))
                for i, size in enumerate(sizes)
            ]
            params: dict[tuple[int, int], Arrays] = {}
            for n, i in enumerate(order):
                stepped = sessions[i].step(gradients(n, sizes[i]), loss=n, lr=[0.001 * n])
                params[i, sessions[i].position] = stepped
            return params, [session.state().tensors for session in sessions]

    async def together() -> Results:
        async with AsyncClient(service.url) as client:
            sessions = [
                await client.sessions.create(optimizer=OPTIMIZERS[i % 3], params=start(size))
                for i, size in enumerate(sizes)
            ]
            steps = (
                Step(sessions[i], gradients(n, sizes[i]), n, [0.001 * n])
                for n, i in enumerate(order)
            )
            source: Any = later(steps) if awaited else steps
            found: dict[tuple[int, int], Arrays] = {}
            taken = [0] * len(sizes)
            async with Pipeline(source, limit=limit) as pipeline:
                async for session, params, receipt in pipeline:
                    i = sessions.index(session)
                    taken[i] += 1
                    assert (receipt.step, receipt.replayed) == (taken[i], False)
                    found[i, receipt.step] = params
            losses = [loss for session in sessions for loss in (await session.history()).loss]
            assert sorted(losses) == list(range(60))
            return found, [(await session.state()).tensors for session in sessions]

    (params, states), (expected, expected_states) = run(together()), alone()
    assert params.keys() == expected.keys()
    assert all(same(params[key], expected[key]) for key in expected)
    assert all(map(same, states, expected_states))


def test_so_many_steps_as_allowed_are_under_way_and_no_more(service: Server) -> None:
    limit, count = 3, 12
    meeting = asyncio.Barrier(limit)
    under_way: set[httpx.Request] = set()

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        under_way.add(request)
        assert len(under_way) <= limit
        async with meeting:  # a step waits for two others: if they came later, this would not end
            under_way.remove(request)
            return await pass_on(request)

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, count)
            made, taken = 0, 0

            def source() -> Iterator[Step]:
                nonlocal made
                for session in sessions:
                    made += 1
                    assert made - taken <= limit
                    yield Step(session, gradients(made, 4))

            async with Pipeline(source(), limit=limit) as pipeline:
                async for _ in pipeline:
                    taken += 1
                    await asyncio.sleep(0.02)
            assert taken == count

    run(main())


def test_gradients_are_on_their_way_before_the_next_are_computed(service: Server) -> None:
    events: list[str] = []

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        events.append("sent")
        return await pass_on(request)

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, 4)

            def source() -> Iterator[tuple[AsyncSession, Arrays]]:
                for n, session in enumerate(sessions):
                    events.append("computed")
                    yield session, gradients(n, 4)

            async with Pipeline(source()) as pipeline:
                assert len([stepped async for stepped in pipeline]) == 4

    run(main())
    assert events == ["computed", "sent"] * 4


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


def test_gradients_may_be_computed_from_the_results(service: Server) -> None:
    rounds = 5

    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 3)
            ready: asyncio.Queue[Step | None] = asyncio.Queue()
            for session in sessions:
                ready.put_nowait(Step(session, start(4)))

            async def source() -> AsyncIterator[Step]:
                while (step := await ready.get()) is not None:
                    yield step

            left = rounds * len(sessions)
            async with Pipeline(source(), limit=2) as pipeline:
                async for session, params, receipt in pipeline:
                    left -= 1
                    if receipt.step < rounds:
                        ready.put_nowait(Step(session, params))  # that of half the squares
                    if not left:
                        ready.put_nowait(None)
            assert await positions(sessions) == [rounds] * len(sessions)

    run(main())


def test_with_a_limit_of_one_the_source_knows_all_that_the_loop_has_done(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            [session] = await created(client, 1)
            newest, asked = start(4), list[bool]()

            async def source() -> AsyncIterator[Step]:
                for step in range(5):
                    asked.append(session.position == step and same(newest, current))
                    yield Step(session, newest)

            current = newest
            async with Pipeline(source(), limit=1) as pipeline:
                async for _, params, _ in pipeline:
                    current = params
                    await asyncio.sleep(0.02)
                    newest = params
            assert asked == [True] * 5

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


def test_nothing_to_step_is_no_error_and_no_room_is_one() -> None:
    async def main() -> None:
        async with Pipeline([]) as pipeline:
            assert [stepped async for stepped in pipeline] == []
            assert [stepped async for stepped in pipeline] == []

    run(main())
    with pytest.raises(ValueError, match="at least 1"):
        Pipeline([], limit=0)
